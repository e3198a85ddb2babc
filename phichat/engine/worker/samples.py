"""Several replies to one prompt, as parallel sequences that share its keys and values."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from collections.abc import Sequence as Tokens
from dataclasses import dataclass
from time import monotonic

from phichat.engine.protocol import Evaluating, Failure, Generated, OfSample, Said, Sample, Sampled
from phichat.engine.worker.generate import fill
from phichat.engine.worker.model import Model
from phichat.engine.worker.prompt import Prompt
from phichat.engine.worker.schedule import Job, Steps
from phichat.engine.worker.sequences import Decoded, RequestFailed, Sequence
from phichat.engine.worker.voice import Writer
from phichat.messages import FinishReason

_WIDTH = 6
"""Replies that are written at once. More still pay: on two cores of an AMD EPYC, 1, 4, 5, 6, 8 and 12 of a 135M model
gave 119, 187, 190, 204, 236 and 277 tokens a second in sum, and 4, 8 and 12 of a 3.8B one 1.3, 1.5 and 2.1 times as
many as one. But who else asks the engine meanwhile needs a sequence too. The width is fixed, for another one rounds
differently and so has other replies."""


def samples(
    model: Model,
    prompt: Prompt,
    request: Sample,
    stops: Tokens[str],
    job: Job,
    make_room: Callable[[], bool],
    batch: Callable[[], int],
) -> Steps:
    """Reply once with each seed: a batch of the prompt, or a token of each reply, in each step.

    Arguments and errors are those of `generate.reply`.
    """
    total = len(prompt.tokens)
    if total >= model.n_ctx:
        raise RequestFailed(Failure.OVERFLOW, "the prompt does not fit the context", total)
    while (first := model.states.take(prompt.tokens, job.client.may_go_on)) is None:
        if job.cancelled.is_set():
            return Sampled()
        yield False
    model.states.begin(first, prompt.tokens, "", job.cancelled.is_set)
    sampling = _Sampling(model, prompt, request, stops, job, first, make_room, batch)
    try:
        yield from sampling.run()
    finally:
        sampling.close()
    return Sampled()


@dataclass(eq=False, slots=True)
class _Live:
    """A reply that is being written."""

    number: int
    writer: Writer
    sequence: Sequence


class _Sampling:
    """The replies to one prompt. Their last token is always evaluated together with those of the others, the
    prompt's too, so that the same seeds give the same replies whether the prompt was cached or not.
    """

    def __init__(
        self,
        model: Model,
        prompt: Prompt,
        request: Sample,
        stops: Tokens[str],
        job: Job,
        first: Sequence,
        make_room: Callable[[], bool],
        batch: Callable[[], int],
    ) -> None:
        self._model, self._prompt, self._request, self._stops = model, prompt, request, stops
        self._job, self._make_room, self._batch = job, make_room, batch
        self._shared = prompt.tokens[:-1]
        restoring = monotonic()
        self._own(first)
        self._restore_s, self._cached = monotonic() - restoring, len(first.cached)
        self._evaluated = self._wait_s = 0.0
        self._waiting = deque(range(len(request.seeds)))
        self._parked: deque[_Live] = deque()
        self._live: list[_Live] = []
        self._free = [first]
        job.sequences = (first,)

    def _own(self, sequence: Sequence) -> None:
        """Nothing of it is kept, whoever it was of before."""
        self._model.states.begin(sequence, self._prompt.tokens, "", self._job.cancelled.is_set)

    def run(self) -> Generator[bool, None, None]:
        """Until all have ended, or were cancelled."""
        self._report(self._cached)
        (first,) = self._free
        while (end := (yield from self._fill(first, self._shared, self._report))) is Decoded.NO_ROOM:
            yield False
        if end is Decoded.CANCELLED:
            return
        self._take_more()
        while self._begin():
            match (yield from self._step()):
                case Decoded.CANCELLED:
                    self._cancel()
                    return
                case Decoded.NO_ROOM if len(self._live) > 1:
                    # It goes on when another has ended.
                    self._parked.appendleft(parked := self._live.pop())
                    parked.sequence.clear()
                case Decoded.NO_ROOM:
                    yield False
                case Decoded.DONE:
                    yield True

    def _report(self, done: int) -> None:
        total = len(self._prompt.tokens)
        self._job.send(Evaluating(total if done == len(self._shared) else done, total, self._cached))

    def _fill(
        self, sequence: Sequence, tokens: Tokens[int], report: Callable[[int], None] | None = None
    ) -> Generator[bool, None, Decoded]:
        return fill(sequence, tokens, self._job, self._make_room, self._batch, report)

    def _take_more(self) -> None:
        """As many sequences as are idle and of use; they begin as the first does."""
        for _ in range(min(_WIDTH, len(self._request.seeds)) - 1):
            another = self._model.sequences.take(self._prompt.tokens)
            if another is None:
                break
            self._own(another)
            self._free.append(another)
        self._job.sequences = tuple(self._free)

    def _begin(self) -> bool:
        """Let more replies begin where there are sequences for them; False when there is nothing left to do."""
        while self._free and self._waiting and not self._parked:
            number = self._waiting.popleft()
            writer = Writer(
                self._model,
                self._prompt,
                self._request.params,
                self._request.seeds[number],
                self._stops,
                self._to(number),
            )
            self._live.append(_Live(number, writer, self._free.pop(0)))
        return bool(self._live)

    def _to(self, number: int) -> Callable[[Said | Generated], None]:
        return lambda said: self._job.send(OfSample(number, said))

    def _step(self) -> Generator[bool, None, Decoded]:
        """One token of each."""
        for one in self._live:
            end = yield from self._catch_up(one)
            if end is not Decoded.DONE:
                return end
        if self._job.cancelled.is_set():
            return Decoded.CANCELLED
        end = self._model.sequences.decode([(one.sequence, one.writer.tokens[-1:]) for one in self._live])
        if end is Decoded.NO_ROOM and self._make_room():
            return Decoded.DONE
        if end is not Decoded.DONE:
            return end
        if not self._evaluated:
            self._evaluated, self._wait_s = monotonic(), self._job.waited_s
        for at, one in enumerate(tuple(self._live)):
            if reason := one.writer.next(at):
                self._end(one, reason)
        return Decoded.DONE

    def _catch_up(self, one: _Live) -> Generator[bool, None, Decoded]:
        """Until only its last token is left to evaluate, whatever was taken from its sequence meanwhile."""
        begin, sequences = len(self._shared), self._model.sequences
        if len(one.sequence.cached) < begin:
            source = next((other for other in self._job.sequences if sequences.has(other, begin)), None)
            if source:
                one.sequence.clear()
                sequences.copy(source, one.sequence, begin)
        return self._fill(one.sequence, one.writer.tokens[:-1])

    def _end(self, one: _Live, reason: FinishReason) -> None:
        one.writer.close()
        evaluated = self._evaluated or monotonic()
        started = self._job.received_at
        said = one.writer.generated(reason, self._cached, started, evaluated, self._restore_s, self._wait_s)
        self._to(one.number)(said)
        one.sequence.cut(len(self._shared))
        self._live.remove(one)
        self._free.append(one.sequence)
        if self._parked:
            self._live.append(self._parked.popleft())

    def _cancel(self) -> None:
        while self._live:
            self._end(self._live[0], FinishReason.CANCELLED)

    def close(self) -> None:
        """Let go of what it has; the first sequence keeps the prompt, for whoever goes on from it."""
        for one in (*self._live, *self._parked):
            one.writer.close()
        first, *others = self._job.sequences
        for other in others:
            other.clear()
        for sequence in (first, *others):
            self._model.sequences.release(sequence)
