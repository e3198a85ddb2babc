"""Measurements that `tuning_cache` remembers, made with an installed model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil

from phichat.engine.autotune import tuning_cache as tuning
from phichat.engine.backend import CancelToken, LoadEvent
from phichat.engine.ipc import protocol
from phichat.engine.ipc.process import DEFAULT_SPIN_COUNT, SPIN_COUNT_VARIABLE
from phichat.engine.ipc.protocol import BenchmarkReply, BenchmarkRequest, PrefillProgress, ThreadTrial
from phichat.engine.local import LocalBackend
from phichat.engine.planner.hardware import count_usable_cores, count_usable_cpus

_ReplyT = TypeVar("_ReplyT", bound=BenchmarkReply)

_ROUNDS = 5
_TRIAL_DURATION_S = 1.0
_BATCH_SIZES = (1, 2, 3, 5, 9)
_SPIN_COUNTS = (DEFAULT_SPIN_COUNT, 300, 10_000)
_SPIN_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class SpinTrial:
    """Generated tokens per second, one value per round: on idle cores, and with another program on one of them."""

    spin_count: int
    idle: tuple[float, ...]
    busy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class BatchCost:
    """Cost of evaluating tokens at once relative to a single one. exact: with the same logits, to the last bit."""

    tokens: int
    cost: float
    exact: bool


@dataclass(frozen=True, slots=True)
class TuningReport:
    """Measurements, and the settings chosen by them.

    spin_trials: empty where barriers are not GNU OpenMP's, where the user has set how they spin, and where one thread
    is best. cpu_load: share of the machine's processors, 0 to 1, that other programs used before.
    """

    default_threads: int
    threads: tuning.Threads
    batch_costs: tuple[BatchCost, ...]
    thread_trials: tuple[ThreadTrial, ...]
    spin_count: int | None
    spin_trials: tuple[SpinTrial, ...]
    cpu_load: float


TuningProgress = LoadEvent | PrefillProgress
BackendMaker = Callable[[tuning.TuningSource, int | None], LocalBackend]
"""Returns a backend, given defaults for its settings and an explicit number of threads."""


def run_tuning(
    make_backend: BackendMaker, tuning_cache: tuning.TuningCache, cancel: CancelToken
) -> Generator[TuningProgress, None, TuningReport | None]:
    """Measure, and store the best settings; None when cancelled.
    make_backend: for the model. Raises what `LocalBackend.load` raises."""
    cpu_load = psutil.cpu_percent(interval=0.5) / 100
    thread_counts = tuning.list_thread_candidates(count_usable_cores(), count_usable_cpus())
    with contextlib.closing(make_backend(tuning.StaticTuning(), None)) as backend:
        request: BenchmarkRequest = protocol.TuneThreads(thread_counts, _ROUNDS, _TRIAL_DURATION_S)
        if (result := (yield from _run_benchmark(backend, request, protocol.ThreadTuningResult, cancel))) is None:
            return None
        threads = select_threads(result.trials)
        counts = (threads.generation, threads.prompt)
        request = protocol.MeasureBatchCosts(*counts, _BATCH_SIZES, _ROUNDS, _TRIAL_DURATION_S / 4)
        if (costs := (yield from _run_benchmark(backend, request, protocol.BatchCostResult, cancel))) is None:
            return None
        engine, library = backend.engine, Path(backend.engine.engine_info.library_file)
        has_gnu_openmp, file_size = _has_gnu_openmp(backend.pid), backend.path.stat().st_size
    spin_count: int | None = None
    spin_trials: tuple[SpinTrial, ...] = ()
    if has_gnu_openmp and threads.generation > 1 and SPIN_COUNT_VARIABLE not in os.environ:
        spin_trials = yield from _run_spin_trials(make_backend, threads.generation, cancel)
        if not spin_trials:
            return None
        spin_count = select_spin_count(spin_trials)
        tuning_cache.store_spin_count(file_size, spin_count)
    batch_costs = compute_batch_costs(_BATCH_SIZES, costs)
    settings = tuning.ComputeSettings(threads, select_exact_costs(batch_costs))
    tuning_cache.store_settings(library, engine.header, settings, offloaded=engine.plan.n_gpu_layers > 0)
    return TuningReport(thread_counts[0], threads, batch_costs, result.trials, spin_count, spin_trials, cpu_load)


def select_threads(trials: Sequence[ThreadTrial]) -> tuning.Threads:
    """Return the best numbers of threads; the first trial is the default one."""
    default_threads = trials[0].threads
    return tuning.Threads(
        tuning.select_fastest({trial.threads: trial.generation_speeds for trial in trials}, default_threads),
        tuning.select_fastest({trial.threads: trial.prompt_speeds for trial in trials}, default_threads),
    )


def compute_batch_costs(sizes: Sequence[int], cost_result: protocol.BatchCostResult) -> tuple[BatchCost, ...]:
    """Return the cost of each batch size but the first, which is a single token."""
    single = cost_result.seconds[0]
    ratios = [median(one / other for one, other in zip(each, single, strict=True)) for each in cost_result.seconds]
    batch_costs = map(BatchCost, sizes, (round(ratio, 3) for ratio in ratios), cost_result.is_exact)
    return tuple(batch_costs)[1:]


def select_exact_costs(batch_costs: Sequence[BatchCost]) -> tuning.BatchCosts:
    """Return the costs usable for speculation: a reply must not depend on guessed tokens."""
    return tuple((batch.tokens, batch.cost) for batch in batch_costs if batch.exact)


def select_spin_count(trials: Sequence[SpinTrial]) -> int:
    """Return the best spin count; speed on idle and on busy cores count alike, as a geometric mean."""
    rates = {trial.spin_count: [sqrt(a * b) for a, b in zip(trial.idle, trial.busy, strict=True)] for trial in trials}
    return tuning.select_fastest(rates, trials[0].spin_count)


def _run_benchmark(
    backend: LocalBackend, request: BenchmarkRequest, reply_type: type[_ReplyT], cancel: CancelToken
) -> Generator[TuningProgress, None, _ReplyT | None]:
    yield from backend.load(cancel)
    if cancel.is_set():
        return None
    for reply in backend.run_benchmark(request, cancel):
        if isinstance(reply, reply_type):
            return reply
        if isinstance(reply, PrefillProgress):
            yield reply
    return None


def _run_spin_trials(
    make_backend: BackendMaker, threads: int, cancel: CancelToken
) -> Generator[TuningProgress, None, tuple[SpinTrial, ...]]:
    """Run each trial in a process of its own, since OpenMP reads its spin count when it starts."""
    idle: dict[int, list[float]] = {count: [] for count in _SPIN_COUNTS}
    busy: dict[int, list[float]] = {count: [] for count in _SPIN_COUNTS}
    request = protocol.TuneThreads((threads,), 1, _TRIAL_DURATION_S)
    for _ in range(_SPIN_ROUNDS):
        for count in _SPIN_COUNTS:
            with contextlib.closing(make_backend(tuning.StaticTuning(count), threads)) as backend:
                for rates, background in ((idle, contextlib.nullcontext()), (busy, _background_load())):
                    with background:
                        result = yield from _run_benchmark(backend, request, protocol.ThreadTuningResult, cancel)
                    if result is None:
                        return ()
                    rates[count].append(result.trials[0].generation_speeds[0])
    return tuple(SpinTrial(count, tuple(idle[count]), tuple(busy[count])) for count in _SPIN_COUNTS)


@contextlib.contextmanager
def _background_load() -> Iterator[None]:
    """Keep one core busy."""
    command = [sys.executable, "-S", "-c", "while True: pass"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process, contextlib.ExitStack() as cleanup:
        cleanup.callback(process.kill)
        yield


def _has_gnu_openmp(pid: int) -> bool:
    """Return whether a process has GNU's OpenMP loaded, which is so on Linux only."""
    with contextlib.suppress(OSError):
        return "libgomp" in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    return False
