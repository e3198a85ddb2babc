"""Measuring what `tuning` remembers, on a model at hand."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from typing import TypeVar

from phichat.engine.autotune.tuning_cache import (
    BatchCosts,
    ComputeSettings,
    StaticTuning,
    Threads,
    TuningCache,
    TuningSource,
    list_thread_candidates,
    select_fastest,
)
from phichat.engine.backend import CancelToken, LoadEvent
from phichat.engine.ipc.protocol import (
    BatchCostResult,
    MeasureBatchCosts,
    ThreadTrial,
    ThreadTuningResult,
    TuneThreads,
)
from phichat.engine.ipc.process import DEFAULT_SPIN_COUNT, SPIN_COUNT_VARIABLE
from phichat.engine.ipc.protocol import BenchmarkReply, BenchmarkRequest, PrefillProgress
from phichat.engine.local import LocalBackend
from phichat.engine.planner.hardware import count_usable_cores, count_usable_cpus

_ReplyT = TypeVar("_ReplyT", bound=BenchmarkReply)

_ROUNDS = 5
_TRIAL_DURATION_S = 1.0
_BATCH_SIZES = (1, 2, 3, 5, 9)
_SPIN_COUNTS = (DEFAULT_SPIN_COUNT, 300, 10_000)
_SPIN_ROUNDS = 4
_BUSY_LOOP = "while True: pass"
_CPU_LOAD_SAMPLE_S = 0.5


@dataclass(frozen=True, slots=True)
class SpinTrial:
    """Generated tokens per second with a spin count, one of each round: with the cores idle, and with another
    program on one of them."""

    spin_count: int
    idle: tuple[float, ...]
    busy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BatchCost:
    """What evaluating so many tokens at once costs in terms of a single one; exact: whether the logits are, to the
    last bit, those that single tokens give."""

    tokens: int
    cost: float
    exact: bool


@dataclass(frozen=True, slots=True)
class TuningReport:
    """What was measured, and what follows from it.

    spins: empty where barriers are not OpenMP's, where the user
    has set how they spin, and where one thread is best. load: the share of this machine's processors, 0 to 1, that
    other programs used before.
    """

    default_threads: int
    threads: Threads
    batch_costs: tuple[BatchCost, ...]
    thread_trials: tuple[ThreadTrial, ...]
    spin_count: int | None
    spin_trials: tuple[SpinTrial, ...]
    cpu_load: float


TuningProgress = LoadEvent | PrefillProgress


def run_tuning(
    make_backend: Callable[[TuningSource, int | None], LocalBackend], tuning_cache: TuningCache, cancel: CancelToken
) -> Generator[TuningProgress, None, TuningReport | None]:
    """Measure and remember; None when cancelled.

    backend: for the model, with what it prefers and with so many threads. Raises what `LocalBackend.load` raises.
    """
    import psutil

    cpu_load = psutil.cpu_percent(_CPU_LOAD_SAMPLE_S) / 100
    thread_counts = list_thread_candidates(count_usable_cores(), count_usable_cpus())
    backend_under_test = make_backend(StaticTuning(), None)
    try:
        thread_result = yield from _run_thread_trials(
            backend_under_test, TuneThreads(thread_counts, _ROUNDS, _TRIAL_DURATION_S), cancel
        )
        if thread_result is None:
            return None
        threads = select_threads(thread_result.trials)
        cost_result = yield from _measure_batch_costs(backend_under_test, threads, cancel)
        if cost_result is None:
            return None
        library, header, offloaded = (
            backend_under_test.library_file,
            backend_under_test.header,
            backend_under_test.plan.n_gpu_layers > 0,
        )
        has_gnu_openmp = _has_gnu_openmp(backend_under_test.pid)
        file_size = backend_under_test.path.stat().st_size
    finally:
        backend_under_test.close()
    spin_count: int | None = None
    spin_trials: tuple[SpinTrial, ...] = ()
    if has_gnu_openmp and threads.generation > 1 and SPIN_COUNT_VARIABLE not in os.environ:
        spin_trials = yield from _run_spin_trials(
            lambda spin: make_backend(StaticTuning(spin), threads.generation), threads.generation, cancel
        )
        if not spin_trials:
            return None
        spin_count = select_spin_count(spin_trials)
        tuning_cache.store_spin_count(file_size, spin_count)
    batch_costs = compute_batch_costs(_BATCH_SIZES, cost_result)
    tuning_cache.store_settings(
        library, header, ComputeSettings(threads, select_exact_costs(batch_costs)), offloaded=offloaded
    )
    return TuningReport(thread_counts[0], threads, batch_costs, thread_result.trials, spin_count, spin_trials, cpu_load)


def select_threads(trials: Sequence[ThreadTrial]) -> Threads:
    """The first trial is the usual one."""
    default_threads = trials[0].threads
    return Threads(
        select_fastest({trial.threads: trial.generation_speeds for trial in trials}, default_threads),
        select_fastest({trial.threads: trial.prompt_speeds for trial in trials}, default_threads),
    )


def compute_batch_costs(sizes: Sequence[int], cost_result: BatchCostResult) -> tuple[BatchCost, ...]:
    """What there is to know of each size but the first, which is a single token."""
    single = cost_result.seconds[0]
    ratios = [median(one / other for one, other in zip(each, single, strict=True)) for each in cost_result.seconds]
    batch_costs = map(BatchCost, sizes, (round(ratio, 3) for ratio in ratios), cost_result.is_exact)
    return tuple(batch_costs)[1:]


def select_exact_costs(batch_costs: Sequence[BatchCost]) -> BatchCosts:
    """Of those that may be guessed in: a reply must not depend on what was guessed."""
    return tuple((batch.tokens, batch.cost) for batch in batch_costs if batch.exact)


def select_spin_count(trials: Sequence[SpinTrial]) -> int:
    """What is gained on idle cores must not be lost again when they are wanted: both count alike."""
    rates = {trial.spin_count: [sqrt(a * b) for a, b in zip(trial.idle, trial.busy, strict=True)] for trial in trials}
    return select_fastest(rates, trials[0].spin_count)


def _run_thread_trials(
    backend: LocalBackend, request: TuneThreads, cancel: CancelToken
) -> Generator[TuningProgress, None, ThreadTuningResult | None]:
    yield from backend.load(cancel)
    if cancel.is_set():
        return None
    return (yield from _run_benchmark(backend, request, ThreadTuningResult, cancel))


def _measure_batch_costs(
    backend: LocalBackend, threads: Threads, cancel: CancelToken
) -> Generator[TuningProgress, None, BatchCostResult | None]:
    request = MeasureBatchCosts(threads.generation, threads.prompt, _BATCH_SIZES, _ROUNDS, _TRIAL_DURATION_S / 4)
    return (yield from _run_benchmark(backend, request, BatchCostResult, cancel))


def _run_benchmark(
    backend: LocalBackend, request: BenchmarkRequest, reply_type: type[_ReplyT], cancel: CancelToken
) -> Generator[TuningProgress, None, _ReplyT | None]:
    for reply in backend.run_benchmark(request, cancel):
        if isinstance(reply, reply_type):
            return reply
        if isinstance(reply, PrefillProgress):
            yield reply
    return None


def _run_spin_trials(
    make_backend: Callable[[int], LocalBackend], threads: int, cancel: CancelToken
) -> Generator[TuningProgress, None, tuple[SpinTrial, ...]]:
    """OpenMP reads its spin count when it starts, so that each trial is a process of its own."""
    idle: Mapping[int, list[float]] = {count: [] for count in _SPIN_COUNTS}
    busy: Mapping[int, list[float]] = {count: [] for count in _SPIN_COUNTS}
    for _ in range(_SPIN_ROUNDS):
        for count in _SPIN_COUNTS:
            backend_under_test = make_backend(count)
            try:
                for rates, background in ((idle, contextlib.nullcontext()), (busy, _background_load())):
                    with background:
                        thread_result = yield from _run_thread_trials(
                            backend_under_test, TuneThreads((threads,), 1, _TRIAL_DURATION_S), cancel
                        )
                    if thread_result is None:
                        return ()
                    rates[count].append(thread_result.trials[0].generation_speeds[0])
            finally:
                backend_under_test.close()
    return tuple(SpinTrial(count, tuple(idle[count]), tuple(busy[count])) for count in _SPIN_COUNTS)


@contextlib.contextmanager
def _background_load() -> Iterator[None]:
    """Something that wants a core."""
    with subprocess.Popen([sys.executable, "-S", "-c", _BUSY_LOOP], stdin=subprocess.DEVNULL) as load_process:
        try:
            yield
        finally:
            load_process.kill()


def _has_gnu_openmp(pid: int) -> bool:
    """Whether a process has GNU's OpenMP loaded; elsewhere than on Linux it has another one."""
    try:
        return "libgomp" in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except OSError:
        return False
