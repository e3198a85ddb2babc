"""Parallel sampling: several replies to one prompt, in sequences that share its KV cells."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from time import monotonic

from phichat.engine.ipc import protocol
from phichat.engine.worker.detokenizer import ReplyGenerator
from phichat.engine.worker.generation import GenerationContext
from phichat.engine.worker.kv_cache.sequences import DecodeStatus, KvSequence
from phichat.engine.worker.scheduler import JobSteps
from phichat.types import FinishReason

_MAX_PARALLEL = 6
"""Replies generated at once. More still pay: on two cores of an AMD EPYC, 1, 4, 5, 6, 8 and 12 of a 135M model
gave 119, 187, 190, 204, 236 and 277 tokens a second in sum, and 4, 8 and 12 of a 3.8B one 1.3, 1.5 and 2.1 times as
many as one. But other clients of the engine need a sequence too. The width is fixed because another one rounds
differently and so has other replies."""


def generate_samples(context: GenerationContext, request: protocol.GenerateN) -> JobSteps:
    """Reply once with each seed: a batch of the prompt or a token of each reply in each step. Raises RequestFailed."""
    if first := (yield from context.acquire_sequence()):
        with closing(_ParallelSampling(context, request, first)) as sampling:
            yield from sampling.run()
    return protocol.SamplesFinished()


@dataclass(eq=False, slots=True)
class _ActiveSample:
    """A reply that is being generated. index: of its seed."""

    index: int
    generator: ReplyGenerator
    sequence: KvSequence


class _ParallelSampling:
    """Replies to one prompt.

    Their last tokens are always decoded in one batch, the prompt's last token too, so that the same seeds give the
    same replies whether the prompt was cached or not.
    """

    def __init__(self, context: GenerationContext, request: protocol.GenerateN, first: KvSequence) -> None:
        self._context, self._request = context, request
        self._model, self._job, self._prompt = context.model, context.job, context.prompt
        self._shared_tokens = self._prompt.tokens[:-1]
        restore_started = monotonic()
        self._claim(first)
        self._restore_s, self._cached = monotonic() - restore_started, len(first.cached_tokens)
        self._prefill_ended_at = self._wait_s = 0.0
        self._pending = deque(range(len(request.seeds)))
        self._preempted: deque[_ActiveSample] = deque()
        self._active: list[_ActiveSample] = []
        self._free_sequences = [first]
        self._job.sequences = (first,)

    def _claim(self, sequence: KvSequence) -> None:
        """Take a sequence over for this prompt, without a conversation to save it under."""
        self._model.kv_persistence.restore_for(sequence, self._prompt.tokens, "", self._job.cancel_event.is_set)

    def run(self) -> Generator[bool, None, None]:
        """Generate until all replies have ended or were cancelled."""
        self._report_progress(self._cached)
        (first,) = self._free_sequences
        if not (yield from self._context.prefill(first, self._shared_tokens, self._report_progress)):
            return
        self._acquire_sequences()
        while self._start_samples():
            match (yield from self._decode_step()):
                case DecodeStatus.CANCELLED:
                    while self._active:
                        self._finish_sample(self._active[0], FinishReason.CANCELLED)
                    return
                case DecodeStatus.CACHE_FULL if len(self._active) > 1:
                    # The preempted sample goes on when another has ended.
                    self._preempted.appendleft(preempted := self._active.pop())
                    preempted.sequence.clear()
                case DecodeStatus.CACHE_FULL:
                    yield False
                case DecodeStatus.DONE:
                    yield True

    def _report_progress(self, evaluated: int) -> None:
        total = len(self._prompt.tokens)
        done = total if evaluated == len(self._shared_tokens) else evaluated
        self._job.send(protocol.PrefillProgress(done, total, self._cached))

    def _acquire_sequences(self) -> None:
        """Take as many idle sequences as are of use; each starts with the prompt of the first."""
        for _ in range(min(_MAX_PARALLEL, len(self._request.seeds)) - 1):
            if another := self._model.sequence_pool.acquire(self._prompt.tokens):
                self._claim(another)
                self._free_sequences.append(another)
        self._job.sequences = tuple(self._free_sequences)

    def _start_samples(self) -> bool:
        """Start replies while there are free sequences; False when nothing is left to do."""
        while self._free_sequences and self._pending and not self._preempted:
            index = self._pending.popleft()
            seed, send = self._request.seeds[index], partial(self._send_output, index)
            generator = ReplyGenerator(self._model, self._prompt, self._context.params, seed, send)
            self._active.append(_ActiveSample(index, generator, self._free_sequences.pop(0)))
        return bool(self._active)

    def _send_output(self, index: int, output: protocol.OutputDelta | protocol.GenerationFinished) -> None:
        self._job.send(protocol.SampleOutput(index, output))

    def _decode_step(self) -> Generator[bool, None, DecodeStatus]:
        """Decode and sample one token of each active reply."""
        for sample in self._active:
            if (status := (yield from self._reevaluate(sample))) is not DecodeStatus.DONE:
                return status
        if self._job.cancel_event.is_set():
            return DecodeStatus.CANCELLED
        status = self._model.sequence_pool.decode([(one.sequence, one.generator.tokens[-1:]) for one in self._active])
        if status is DecodeStatus.CACHE_FULL and self._context.evict():
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
        """Evaluate what was evicted from a sample's sequence, all but its last token."""
        sequence, shared = sample.sequence, len(self._shared_tokens)
        sources = (other for other in self._job.sequences if other.can_truncate_to(shared))
        if len(sequence.cached_tokens) < shared and (source := next(sources, None)):
            sequence.clear()
            self._model.sequence_pool.copy_prefix(source, sequence, shared)
        return self._context.try_prefill(sequence, sample.generator.tokens[:-1])

    def _finish_sample(self, sample: _ActiveSample, reason: FinishReason) -> None:
        generator, started = sample.generator, self._job.received_at
        generator.close()
        prefill_ended = self._prefill_ended_at or monotonic()
        result = generator.build_result(reason, self._cached, started, prefill_ended, self._restore_s, self._wait_s)
        self._send_output(sample.index, result)
        sample.sequence.truncate(len(self._shared_tokens))
        self._active.remove(sample)
        self._free_sequences.append(sample.sequence)
        if self._preempted:
            self._active.append(self._preempted.popleft())

    def close(self) -> None:
        """Release the sequences; the first one holds the prompt, for a later request that begins with it."""
        for sample in (*self._active, *self._preempted):
            sample.generator.close()
        for sequence in self._job.sequences:
            if sequence is not self._job.sequences[0]:
                sequence.clear()
            self._model.sequence_pool.release(sequence)
