"""How fast a model reads and writes here, measured as llama-bench does, and how fast memory is."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from time import perf_counter

from phichat.engine.bandwidth import memory_bandwidth
from phichat.engine.measuring import Bench, Benched, Trial, Tune, Tuned, Weigh, Weighed
from phichat.engine.protocol import Evaluating, Failure, Measure, Measurement, Reply
from phichat.engine.worker.model import Model
from phichat.engine.worker.sequences import Decoded, RequestFailed

_LONGEST_PROMPT, _LONGEST_REPLY = 512, 128
"""Tokens that a trial takes at most; fewer where they take longer than it should."""
_SHORTEST_PROMPT, _SHORTEST_REPLY = 32, 4
_SOME_TEXT = 320
"""Tokens that stand before a batch. With fewer than 256, the attention of a single token on a CPU is computed as
that of a batch is; with more, it is divided among the threads and rounds otherwise."""


class _Stopwatch:
    """Times reading and writing, each from an empty context.

    The prompt is evaluated in the batches that a chat uses; generation evaluates one token after the other,
    without sampling: llama-bench's pp and tg. Both give tokens per second, and tell that one of the steps is
    done. They raise RequestFailed when cancelled.
    """

    def __init__(self, model: Model, send: Callable[[Reply], None], steps: int) -> None:
        self._model, self._send, self.steps = model, send, steps
        self._sequence = model.sequences.all[0]
        source = random.Random(0)
        self._tokens = [source.randrange(model.vocabulary.size) for _ in range(model.n_ctx)]
        self._done = 0
        send(Evaluating(0, steps, 0))

    def read(self, count: int) -> float:
        return self._rate(count, self._model.n_batch)

    def write(self, count: int) -> float:
        return self._rate(count, 1)

    def _rate(self, count: int, batch: int) -> float:
        self._sequence.clear()
        start = perf_counter()
        for at in range(0, count, batch):
            self._decode(at, min(batch, count - at))
        self._model.synchronize()
        seconds = perf_counter() - start
        self._sequence.clear()
        self.step()
        return count / seconds

    def batch(self, size: int) -> float:
        """Seconds for a batch of so many tokens with logits for each, somewhere in a text."""
        behind = self._behind(size)
        start = perf_counter()
        self._decode(behind, size, every=True)
        self._model.synchronize()
        return perf_counter() - start

    def is_exact(self, size: int) -> bool:
        """Whether the logits of a batch are to the last bit those of single tokens."""
        behind, single = self._behind(size), []
        for at in range(size):
            self._decode(behind + at, 1)
            single.append(self._model.logits(-1))
        self._decode(self._behind(size), size, every=True)
        return single == [self._model.logits(at) for at in range(size)]

    def _behind(self, size: int) -> int:
        """Where a batch begins, behind some text."""
        length = max(0, min(_SOME_TEXT, self._model.n_ctx - size))
        self._sequence.cut(length)
        if (done := len(self._sequence.cached)) < length:
            self._decode(done, length - done)
        self._model.synchronize()
        return length

    def step(self) -> None:
        """One of the steps is done."""
        self._done += 1
        self._send(Evaluating(min(self._done, self.steps), self.steps, 0))

    def _decode(self, at: int, count: int, *, every: bool = False) -> None:
        if self._sequence.decode(self._tokens[at : at + count], every=every) is not Decoded.DONE:
            raise RequestFailed(Failure.CANCELLED, "the measurement was cancelled")


def measurement(model: Model, request: Measure, send: Callable[[Reply], None]) -> Measurement:
    """What is asked for, of the loaded model. Raises RequestFailed when cancelled."""
    match request:
        case Bench():
            return bench(model, request, send)
        case Tune():
            return tune(model, request, send)
        case Weigh():
            return weigh(model, request, send)
        case _:
            raise AssertionError(request)


def bench(model: Model, request: Bench, send: Callable[[Reply], None]) -> Benched:
    """Time `repeats` prompts and `repeats` generations after one warm-up of each.

    Raises RequestFailed when it is cancelled, or when the tokens do not fit the context.
    """
    if max(request.prompt_tokens, request.generated_tokens) > model.n_ctx:
        raise RequestFailed(Failure.OVERFLOW, "the context is too small for this test", request.prompt_tokens)
    watch = _Stopwatch(model, send, 2 * (request.repeats + 1))
    watch.read(request.prompt_tokens)
    watch.write(request.generated_tokens)
    prompt, generation = [], []
    # The speed of a shared machine drifts: the two are taken in turn.
    for _ in range(request.repeats):
        prompt.append(watch.read(request.prompt_tokens))
        generation.append(watch.write(request.generated_tokens))
    return Benched(tuple(prompt), tuple(generation), memory_bandwidth(model.request.threads))


def tune(model: Model, request: Tune, send: Callable[[Reply], None]) -> Tuned:
    """Time each number of threads once in each round. Raises RequestFailed when it is cancelled."""
    watch = _Stopwatch(model, send, 4 + 2 * request.rounds * len(request.threads))
    model.use_threads(request.threads[0], request.threads[0])

    def length(rate: Callable[[int], float], shortest: int, longest: int) -> int:
        rate(shortest)  # what is first read from the disk would count as slow
        return max(1, min(model.n_ctx, longest, max(shortest, int(rate(shortest) * request.seconds / 2))))

    prompt = length(watch.read, _SHORTEST_PROMPT, _LONGEST_PROMPT)
    reply = length(watch.write, _SHORTEST_REPLY, _LONGEST_REPLY)
    read: dict[int, list[float]] = {count: [] for count in request.threads}
    written: dict[int, list[float]] = {count: [] for count in request.threads}
    for _ in range(request.rounds):
        for count in request.threads:
            model.use_threads(count, count)
            read[count].append(watch.read(prompt))
            written[count].append(watch.write(reply))
    return Tuned(tuple(Trial(count, tuple(read[count]), tuple(written[count])) for count in request.threads))


def weigh(model: Model, request: Weigh, send: Callable[[Reply], None]) -> Weighed:
    """Time each size of a batch in each round. Raises RequestFailed when it is cancelled."""
    watch = _Stopwatch(model, send, request.rounds * len(request.sizes))
    model.use_threads(request.threads, request.prompt_threads)
    watch.batch(1)
    repeats = max(2, min(50, int(request.seconds / watch.batch(1))))
    seconds: dict[int, list[float]] = {size: [] for size in request.sizes}
    for _ in range(request.rounds):
        for size in request.sizes:
            seconds[size].append(median(watch.batch(size) for _ in range(repeats)))
            watch.step()
    exact = tuple(watch.is_exact(size) for size in request.sizes)
    return Weighed(tuple(tuple(seconds[size]) for size in request.sizes), exact)
