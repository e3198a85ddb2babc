"""What is said to and by an engine process that measures: how fast it is, and what it does best with.

Apart from the rest of the protocol, which every question needs at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from phichat.engine.ipc.protocol import BenchmarkReply, BenchmarkRequest


@dataclass(frozen=True, slots=True)
class RunBenchmark(BenchmarkRequest):
    """Time a prompt of so many tokens, then so many generated ones, each from an empty context."""

    prompt_tokens: int
    generated_tokens: int
    repeats: int


@dataclass(frozen=True, slots=True)
class TuneThreads(BenchmarkRequest):
    """Time reading and writing with each of these numbers of threads in turn, about so many seconds each.

    threads: the first one is what the others are compared with.
    """

    threads: tuple[int, ...]
    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasureBatchCosts(BenchmarkRequest):
    """Time batches of these sizes in turn, the first one a single token, with logits for each of their tokens, and
    compare those with what single tokens give."""

    threads: int
    prompt_threads: int
    batch_sizes: tuple[int, ...]
    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BenchmarkResult(BenchmarkReply):
    """Tokens per second of each repeat; bytes per second that memory could be read with."""

    prompt_speeds: tuple[float, ...]
    generation_speeds: tuple[float, ...]
    memory_bandwidth: float


@dataclass(frozen=True, slots=True)
class ThreadTrial:
    """Tokens per second with so many threads, one of each round."""

    threads: int
    prompt_speeds: tuple[float, ...]
    generation_speeds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ThreadTuningResult(BenchmarkReply):
    """trials: in the order of the request."""

    trials: tuple[ThreadTrial, ...]


@dataclass(frozen=True, slots=True)
class BatchCostResult(BenchmarkReply):
    """Seconds that a batch of each size took, one of each round; whether its logits are exactly those of single
    tokens."""

    seconds: tuple[tuple[float, ...], ...]
    is_exact: tuple[bool, ...]


BENCHMARK_MESSAGE_TYPES = {
    kind.__name__: kind
    for kind in (
        RunBenchmark,
        TuneThreads,
        MeasureBatchCosts,
        BenchmarkResult,
        ThreadTrial,
        ThreadTuningResult,
        BatchCostResult,
    )
}
