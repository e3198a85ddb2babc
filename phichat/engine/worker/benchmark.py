"""How fast a model reads and writes here, measured as llama-bench does, and how fast memory is."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from time import perf_counter

from phichat.engine.ipc.protocol import (
    BatchCostResult,
    BenchmarkReply,
    BenchmarkRequest,
    BenchmarkResult,
    EngineReply,
    ErrorCode,
    MeasureBatchCosts,
    PrefillProgress,
    RunBenchmark,
    ThreadTrial,
    ThreadTuningResult,
    TuneThreads,
)
from phichat.engine.planner.memory_bandwidth import measure_memory_bandwidth
from phichat.engine.worker.kv_cache.sequences import DecodeStatus, RequestFailed
from phichat.engine.worker.model import Model

_MAX_PROMPT_TOKENS, _MAX_GENERATED_TOKENS = 512, 128
"""Tokens that a trial takes at most; fewer where they take longer than it should."""
_MIN_PROMPT_TOKENS, _MIN_GENERATED_TOKENS = 32, 4
_PREFIX_TOKENS = 320
"""Tokens that stand before a batch. With fewer than 256, the attention of a single token on a CPU is computed as
that of a batch is; with more, it is divided among the threads and rounds otherwise."""


class _BenchmarkRunner:
    """Times reading and writing, each from an empty context.

    The prompt is evaluated in the batches that a chat uses; generation evaluates one token after the other,
    without sampling: llama-bench's pp and tg. Both give tokens per second, and tell that one of the steps is
    done. They raise RequestFailed when cancelled.
    """

    def __init__(self, model: Model, send: Callable[[EngineReply], None], steps: int) -> None:
        self._model, self._send, self.steps = model, send, steps
        self._sequence = model.sequence_pool.sequences[0]
        rng = random.Random(0)
        self._tokens = [rng.randrange(model.tokenizer.size) for _ in range(model.n_ctx)]
        self._finished_steps = 0
        send(PrefillProgress(0, steps, 0))

    def measure_prefill_rate(self, count: int) -> float:
        return self._measure_rate(count, self._model.n_batch)

    def measure_decode_rate(self, count: int) -> float:
        return self._measure_rate(count, 1)

    def _measure_rate(self, count: int, batch_size: int) -> float:
        self._sequence.clear()
        start = perf_counter()
        for offset in range(0, count, batch_size):
            self._decode(offset, min(batch_size, count - offset))
        self._model.synchronize()
        seconds = perf_counter() - start
        self._sequence.clear()
        self.report_step()
        return count / seconds

    def time_batch(self, size: int) -> float:
        """Seconds for a batch of so many tokens with logits for each, somewhere in a text."""
        prefix_length = self._prepare_prefix(size)
        start = perf_counter()
        self._decode(prefix_length, size, all_logits=True)
        self._model.synchronize()
        return perf_counter() - start

    def is_batch_exact(self, size: int) -> bool:
        """Whether the logits of a batch are to the last bit those of single tokens."""
        prefix_length, single = self._prepare_prefix(size), []
        for index in range(size):
            self._decode(prefix_length + index, 1)
            single.append(self._model.get_logits(-1))
        self._decode(self._prepare_prefix(size), size, all_logits=True)
        return single == [self._model.get_logits(at) for at in range(size)]

    def _prepare_prefix(self, size: int) -> int:
        """Where a batch begins, behind some text."""
        length = max(0, min(_PREFIX_TOKENS, self._model.n_ctx - size))
        self._sequence.truncate(length)
        if (cached := len(self._sequence.cached_tokens)) < length:
            self._decode(cached, length - cached)
        self._model.synchronize()
        return length

    def report_step(self) -> None:
        """One of the steps is done."""
        self._finished_steps += 1
        self._send(PrefillProgress(min(self._finished_steps, self.steps), self.steps, 0))

    def _decode(self, offset: int, count: int, *, all_logits: bool = False) -> None:
        if self._sequence.decode(self._tokens[offset : offset + count], all_logits=all_logits) is not DecodeStatus.DONE:
            raise RequestFailed(ErrorCode.CANCELLED, "the measurement was cancelled")


def run_measurement(model: Model, request: BenchmarkRequest, send: Callable[[EngineReply], None]) -> BenchmarkReply:
    """What is asked for, of the loaded model. Raises RequestFailed when cancelled."""
    match request:
        case RunBenchmark():
            return run_benchmark(model, request, send)
        case TuneThreads():
            return measure_threads(model, request, send)
        case MeasureBatchCosts():
            return measure_batch_costs(model, request, send)
        case _:
            raise AssertionError(request)


def run_benchmark(model: Model, request: RunBenchmark, send: Callable[[EngineReply], None]) -> BenchmarkResult:
    """Time `repeats` prompts and `repeats` generations after one warm-up of each.

    Raises RequestFailed when it is cancelled, or when the tokens do not fit the context.
    """
    if max(request.prompt_tokens, request.generated_tokens) > model.n_ctx:
        raise RequestFailed(ErrorCode.OVERFLOW, "the context is too small for this test", request.prompt_tokens)
    runner = _BenchmarkRunner(model, send, 2 * (request.repeats + 1))
    runner.measure_prefill_rate(request.prompt_tokens)
    runner.measure_decode_rate(request.generated_tokens)
    prompt_rates, generation_rates = [], []
    # The speed of a shared machine drifts: the two are taken in turn.
    for _ in range(request.repeats):
        prompt_rates.append(runner.measure_prefill_rate(request.prompt_tokens))
        generation_rates.append(runner.measure_decode_rate(request.generated_tokens))
    return BenchmarkResult(
        tuple(prompt_rates), tuple(generation_rates), measure_memory_bandwidth(model.request.threads)
    )


def measure_threads(model: Model, request: TuneThreads, send: Callable[[EngineReply], None]) -> ThreadTuningResult:
    """Time each number of threads once in each round. Raises RequestFailed when it is cancelled."""
    runner = _BenchmarkRunner(model, send, 4 + 2 * request.rounds * len(request.threads))
    model.set_threads(request.threads[0], request.threads[0])

    def calibrate_length(rate: Callable[[int], float], min_tokens: int, max_tokens: int) -> int:
        rate(min_tokens)  # what is first read from the disk would count as slow
        return max(1, min(model.n_ctx, max_tokens, max(min_tokens, int(rate(min_tokens) * request.seconds / 2))))

    prompt_tokens = calibrate_length(runner.measure_prefill_rate, _MIN_PROMPT_TOKENS, _MAX_PROMPT_TOKENS)
    reply_tokens = calibrate_length(runner.measure_decode_rate, _MIN_GENERATED_TOKENS, _MAX_GENERATED_TOKENS)
    prefill_rates: dict[int, list[float]] = {count: [] for count in request.threads}
    decode_rates: dict[int, list[float]] = {count: [] for count in request.threads}
    for _ in range(request.rounds):
        for count in request.threads:
            model.set_threads(count, count)
            prefill_rates[count].append(runner.measure_prefill_rate(prompt_tokens))
            decode_rates[count].append(runner.measure_decode_rate(reply_tokens))
    return ThreadTuningResult(
        tuple(ThreadTrial(count, tuple(prefill_rates[count]), tuple(decode_rates[count])) for count in request.threads)
    )


def measure_batch_costs(
    model: Model, request: MeasureBatchCosts, send: Callable[[EngineReply], None]
) -> BatchCostResult:
    """Time each size of a batch in each round. Raises RequestFailed when it is cancelled."""
    runner = _BenchmarkRunner(model, send, request.rounds * len(request.batch_sizes))
    model.set_threads(request.threads, request.prompt_threads)
    runner.time_batch(1)
    repeats = max(2, min(50, int(request.seconds / runner.time_batch(1))))
    seconds: dict[int, list[float]] = {size: [] for size in request.batch_sizes}
    for _ in range(request.rounds):
        for size in request.batch_sizes:
            seconds[size].append(median(runner.time_batch(size) for _ in range(repeats)))
            runner.report_step()
    exact = tuple(runner.is_batch_exact(size) for size in request.batch_sizes)
    return BatchCostResult(tuple(tuple(seconds[size]) for size in request.batch_sizes), exact)
