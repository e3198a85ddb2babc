"""Benchmarks of the loaded model: prefill and decode speed as llama-bench measures them, threads, batch costs."""

from __future__ import annotations

import random
from collections.abc import Callable
from statistics import median
from time import perf_counter

from phichat.engine.ipc import protocol
from phichat.engine.planner.memory_bandwidth import measure_memory_bandwidth
from phichat.engine.worker.errors import RequestFailed
from phichat.engine.worker.kv_cache.sequences import DecodeStatus
from phichat.engine.worker.model import Model

_MIN_PROMPT_TOKENS, _MAX_PROMPT_TOKENS = 32, 512
_MIN_GENERATED_TOKENS, _MAX_GENERATED_TOKENS = 4, 128  # tokens of a trial; as many as the requested seconds allow
_PREFIX_TOKENS = 320
"""Tokens before a timed batch. With fewer than 256, the attention of a single token on a CPU is computed as
that of a batch is; with more, it is divided among the threads and rounds differently."""

Send = Callable[[protocol.EngineReply], None]


def run_measurement(model: Model, request: protocol.BenchmarkRequest, send: Send) -> protocol.BenchmarkReply:
    """Run a benchmark. Raises RequestFailed when it is cancelled or its tokens do not fit the context."""
    match request:
        case protocol.RunBenchmark():
            return _run_benchmark(model, request, send)
        case protocol.TuneThreads():
            return _measure_threads(model, request, send)
        case protocol.MeasureBatchCosts():
            return _measure_batch_costs(model, request, send)


class _BenchmarkRunner:
    """Times batches of random tokens, and reports each finished step. Raises RequestFailed when cancelled."""

    def __init__(self, model: Model, send: Send, steps: int) -> None:
        self._model, self._send, self._steps, self._finished_steps = model, send, steps, 0
        self._sequence = model.sequence_pool.sequences[0]
        rng = random.Random(0)
        self._tokens = [rng.randrange(model.tokenizer.size) for _ in range(model.n_ctx)]
        send(protocol.PrefillProgress(0, steps, 0))

    def report_step(self) -> None:
        self._finished_steps += 1
        self._send(protocol.PrefillProgress(min(self._finished_steps, self._steps), self._steps, 0))

    def measure_rates(self, prompt_tokens: int, reply_tokens: int) -> tuple[float, float]:
        """Return tokens per second of a prompt (llama-bench's pp), and of generation without sampling (its tg)."""
        return self.measure_rate(prompt_tokens, self._model.n_batch), self.measure_rate(reply_tokens, 1)

    def measure_rate(self, count: int, batch_size: int) -> float:
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
        """Return the seconds that a batch of that many tokens takes with logits for each, after some text."""
        prefix_length = self._prepare_prefix(size)
        start = perf_counter()
        self._decode(prefix_length, size, all_logits=True)
        self._model.synchronize()
        return perf_counter() - start

    def is_batch_exact(self, size: int) -> bool:
        """Return True if the logits of a batch equal those of single tokens to the last bit."""
        prefix_length, single = self._prepare_prefix(size), []
        for index in range(size):
            self._decode(prefix_length + index, 1)
            single.append(self._model.get_logits(-1))
        self._decode(self._prepare_prefix(size), size, all_logits=True)
        return single == [self._model.get_logits(index) for index in range(size)]

    def _prepare_prefix(self, size: int) -> int:
        """Evaluate the text before a batch; return its length."""
        length = max(0, min(_PREFIX_TOKENS, self._model.n_ctx - size))
        self._sequence.truncate(length)
        if (cached := len(self._sequence.cached_tokens)) < length:
            self._decode(cached, length - cached)
        self._model.synchronize()
        return length

    def _decode(self, offset: int, count: int, *, all_logits: bool = False) -> None:
        if self._sequence.decode(self._tokens[offset : offset + count], all_logits=all_logits) is not DecodeStatus.DONE:
            raise RequestFailed(protocol.ErrorCode.CANCELLED, "the measurement was cancelled")


def _run_benchmark(model: Model, request: protocol.RunBenchmark, send: Send) -> protocol.BenchmarkResult:
    """Time the prompts and generations after one warm-up of each."""
    prompt_tokens, reply_tokens = request.prompt_tokens, request.generated_tokens
    if max(prompt_tokens, reply_tokens) > model.n_ctx:
        raise RequestFailed(protocol.ErrorCode.OVERFLOW, "the context is too small for this test", prompt_tokens)
    runner = _BenchmarkRunner(model, send, 2 * (request.repeats + 1))
    # The speed of a shared machine drifts: the two are taken in turn.
    rates = [runner.measure_rates(prompt_tokens, reply_tokens) for _ in range(request.repeats + 1)]
    prefill_rates, decode_rates = zip(*rates[1:], strict=True)
    return protocol.BenchmarkResult(prefill_rates, decode_rates, measure_memory_bandwidth(model.request.threads))


def _measure_threads(model: Model, request: protocol.TuneThreads, send: Send) -> protocol.ThreadTuningResult:
    """Time each number of threads once in each round."""
    runner = _BenchmarkRunner(model, send, 4 + 2 * request.rounds * len(request.threads))
    model.set_threads(request.threads[0], request.threads[0])

    def calibrate_length(batch_size: int, min_tokens: int, max_tokens: int) -> int:
        runner.measure_rate(min_tokens, batch_size)  # the first run may read the weights from the disk
        affordable = int(runner.measure_rate(min_tokens, batch_size) * request.seconds / 2)
        return max(1, min(model.n_ctx, max_tokens, max(min_tokens, affordable)))

    prompt_tokens = calibrate_length(model.n_batch, _MIN_PROMPT_TOKENS, _MAX_PROMPT_TOKENS)
    reply_tokens = calibrate_length(1, _MIN_GENERATED_TOKENS, _MAX_GENERATED_TOKENS)
    rates: dict[int, list[tuple[float, float]]] = {count: [] for count in request.threads}
    for _ in range(request.rounds):
        for count in request.threads:
            model.set_threads(count, count)
            rates[count].append(runner.measure_rates(prompt_tokens, reply_tokens))
    trials = (protocol.ThreadTrial(count, *zip(*rates[count], strict=True)) for count in request.threads)
    return protocol.ThreadTuningResult(tuple(trials))


def _measure_batch_costs(model: Model, request: protocol.MeasureBatchCosts, send: Send) -> protocol.BatchCostResult:
    """Time each size of a batch in each round, and compare its logits with those of single tokens."""
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
    return protocol.BatchCostResult(tuple(tuple(seconds[size]) for size in request.batch_sizes), exact)
