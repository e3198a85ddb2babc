"""Several replies to one prompt, as parallel sequences that share its keys and values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from time import monotonic

from phichat.engine.ipc.protocol import (
    ErrorCode,
    GenerateN,
    GenerationFinished,
    OutputDelta,
    PrefillProgress,
    SampleOutput,
    SamplesFinished,
)
from phichat.engine.worker.detokenizer import ReplyGenerator
from phichat.engine.worker.generation import prefill
from phichat.engine.worker.kv_cache.sequences import DecodeStatus, RequestFailed, Sequence
from phichat.engine.worker.model import Model
from phichat.engine.worker.prompt import TokenizedPrompt
from phichat.engine.worker.scheduler import RequestState, RequestSteps
from phichat.types import FinishReason

_MAX_PARALLEL = 6
"""Replies that are written at once. More still pay: on two cores of an AMD EPYC, 1, 4, 5, 6, 8 and 12 of a 135M model
gave 119, 187, 190, 204, 236 and 277 tokens a second in sum, and 4, 8 and 12 of a 3.8B one 1.3, 1.5 and 2.1 times as
many as one. But who else asks the engine meanwhile needs a sequence too. The width is fixed, for another one rounds
differently and so has other replies."""


def generate_samples(
    model: Model,
    prompt: TokenizedPrompt,
    request: GenerateN,
    stop_strings: Tokens[str],
    job: RequestState,
    evict: Callable[[], bool],
    batch_size: Callable[[], int],
) -> RequestSteps:
    """Reply once with each seed: a batch of the prompt, or a token of each reply, in each step.

    Arguments and errors are those of `generate.reply`.
    """
    total = len(prompt.tokens)
    if total >= model.n_ctx:
        raise RequestFailed(ErrorCode.OVERFLOW, "the prompt does not fit the context", total)
    while (first := model.kv_persistence.acquire(prompt.tokens, job.client.is_connected)) is None:
        if job.cancel_event.is_set():
            return SamplesFinished()
        yield False
    model.kv_persistence.restore_for(first, prompt.tokens, "", job.cancel_event.is_set)
    sampling = _ParallelSampling(model, prompt, request, stop_strings, job, first, evict, batch_size)
    try:
        yield from sampling.run()
    finally:
        sampling.close()
    return SamplesFinished()


@dataclass(eq=False, slots=True)
class _ActiveSample:
    """A reply that is being written."""

    index: int
    generator: ReplyGenerator
    sequence: Sequence


class _ParallelSampling:
    """The replies to one prompt. Their last token is always evaluated together with those of the others, the
    prompt's too, so that the same seeds give the same replies whether the prompt was cached or not.
    """

    def __init__(
        self,
        model: Model,
        prompt: TokenizedPrompt,
        request: GenerateN,
        stop_strings: Tokens[str],
        job: RequestState,
        first: Sequence,
        evict: Callable[[], bool],
        batch_size: Callable[[], int],
    ) -> None:
        self._model, self._prompt, self._request, self._stop_strings = model, prompt, request, stop_strings
        self._job, self._evict, self._batch_size = job, evict, batch_size
        self._shared_tokens = prompt.tokens[:-1]
        restore_started = monotonic()
        self._claim(first)
        self._restore_s, self._cached = monotonic() - restore_started, len(first.cached_tokens)
        self._prefill_ended_at = self._wait_s = 0.0
        self._pending = deque(range(len(request.seeds)))
        self._preempted: deque[_ActiveSample] = deque()
        self._active: list[_ActiveSample] = []
        self._free_sequences = [first]
        job.sequences = (first,)

    def _claim(self, sequence: Sequence) -> None:
        """Nothing of it is kept, whoever it was of before."""
        self._model.kv_persistence.restore_for(sequence, self._prompt.tokens, "", self._job.cancel_event.is_set)

    def run(self) -> Generator[bool, None, None]:
        """Until all have ended, or were cancelled."""
        self._report_progress(self._cached)
        (first,) = self._free_sequences
        while (
            status := (yield from self._prefill(first, self._shared_tokens, self._report_progress))
        ) is DecodeStatus.CACHE_FULL:
            yield False
        if status is DecodeStatus.CANCELLED:
            return
        self._acquire_sequences()
        while self._start_samples():
            match (yield from self._decode_step()):
                case DecodeStatus.CANCELLED:
                    self._cancel_samples()
                    return
                case DecodeStatus.CACHE_FULL if len(self._active) > 1:
                    # It goes on when another has ended.
                    self._preempted.appendleft(preempted := self._active.pop())
                    preempted.sequence.clear()
                case DecodeStatus.CACHE_FULL:
                    yield False
                case DecodeStatus.DONE:
                    yield True

    def _report_progress(self, evaluated: int) -> None:
        total = len(self._prompt.tokens)
        self._job.send(
            PrefillProgress(total if evaluated == len(self._shared_tokens) else evaluated, total, self._cached)
        )

    def _prefill(
        self, sequence: Sequence, tokens: Tokens[int], on_progress: Callable[[int], None] | None = None
    ) -> Generator[bool, None, DecodeStatus]:
        return prefill(sequence, tokens, self._job, self._evict, self._batch_size, on_progress)

    def _acquire_sequences(self) -> None:
        """As many sequences as are idle and of use; they begin as the first does."""
        for _ in range(min(_MAX_PARALLEL, len(self._request.seeds)) - 1):
            another = self._model.sequence_pool.acquire(self._prompt.tokens)
            if another is None:
                break
            self._claim(another)
            self._free_sequences.append(another)
        self._job.sequences = tuple(self._free_sequences)

    def _start_samples(self) -> bool:
        """Let more replies begin where there are sequences for them; False when there is nothing left to do."""
        while self._free_sequences and self._pending and not self._preempted:
            index = self._pending.popleft()
            generator = ReplyGenerator(
                self._model,
                self._prompt,
                self._request.params,
                self._request.seeds[index],
                self._stop_strings,
                self._sender(index),
            )
            self._active.append(_ActiveSample(index, generator, self._free_sequences.pop(0)))
        return bool(self._active)

    def _sender(self, index: int) -> Callable[[OutputDelta | GenerationFinished], None]:
        return lambda said: self._job.send(SampleOutput(index, said))

    def _decode_step(self) -> Generator[bool, None, DecodeStatus]:
        """One token of each."""
        for sample in self._active:
            status = yield from self._reevaluate(sample)
            if status is not DecodeStatus.DONE:
                return status
        if self._job.cancel_event.is_set():
            return DecodeStatus.CANCELLED
        status = self._model.sequence_pool.decode([(one.sequence, one.generator.tokens[-1:]) for one in self._active])
        if status is DecodeStatus.CACHE_FULL and self._evict():
            return DecodeStatus.DONE
        if status is not DecodeStatus.DONE:
            return status
        if not self._prefill_ended_at:
            self._prefill_ended_at, self._wait_s = monotonic(), self._job.waited_s
        for index, sample in enumerate(tuple(self._active)):
            if reason := sample.generator.sample_next(index):
                self._finish_sample(sample, reason)
        return DecodeStatus.DONE

    def _reevaluate(self, sample: _ActiveSample) -> Generator[bool, None, DecodeStatus]:
        """Until only its last token is left to evaluate, whatever was taken from its sequence meanwhile."""
        shared_length, sequences = len(self._shared_tokens), self._model.sequence_pool
        if len(sample.sequence.cached_tokens) < shared_length:
            source = next((other for other in self._job.sequences if sequences.can_reuse(other, shared_length)), None)
            if source:
                sample.sequence.clear()
                sequences.copy_prefix(source, sample.sequence, shared_length)
        return self._prefill(sample.sequence, sample.generator.tokens[:-1])

    def _finish_sample(self, sample: _ActiveSample, reason: FinishReason) -> None:
        sample.generator.close()
        prefill_ended = self._prefill_ended_at or monotonic()
        started = self._job.received_at
        result = sample.generator.build_result(
            reason, self._cached, started, prefill_ended, self._restore_s, self._wait_s
        )
        self._sender(sample.index)(result)
        sample.sequence.truncate(len(self._shared_tokens))
        self._active.remove(sample)
        self._free_sequences.append(sample.sequence)
        if self._preempted:
            self._active.append(self._preempted.popleft())

    def _cancel_samples(self) -> None:
        while self._active:
            self._finish_sample(self._active[0], FinishReason.CANCELLED)

    def close(self) -> None:
        """Let go of what it has; the first sequence keeps the prompt, for whoever goes on from it."""
        for sample in (*self._active, *self._preempted):
            sample.generator.close()
        first, *others = self._job.sequences
        for other in others:
            other.clear()
        for sequence in (first, *others):
            self._model.sequence_pool.release(sequence)
