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

from phichat.engine.backend import Cancel, LoadEvent
from phichat.engine.hardware import usable_cores, usable_cpus
from phichat.engine.local import LocalBackend
from phichat.engine.measuring import Trial, Tune, Tuned, Weigh, Weighed
from phichat.engine.process import SPIN_VARIABLE, USUAL_SPIN_COUNT
from phichat.engine.protocol import Evaluating, Measure, Measurement
from phichat.engine.tuning import (
    BatchCosts,
    Fixed,
    Measured,
    Preferences,
    Threads,
    Tunings,
    candidates,
    fastest,
)

_Found = TypeVar("_Found", bound=Measurement)

_ROUNDS = 5
_TRIAL_S = 1.0
_BATCHES = (1, 2, 3, 5, 9)
_SPIN_COUNTS = (USUAL_SPIN_COUNT, 300, 10_000)
_SPIN_ROUNDS = 4
_BUSY = "while True: pass"
_LOAD_S = 0.5


@dataclass(frozen=True, slots=True)
class SpinTrial:
    """Generated tokens per second with a spin count, one of each round: with the cores idle, and with another
    program on one of them."""

    spin_count: int
    idle: tuple[float, ...]
    busy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What evaluating so many tokens at once costs in terms of a single one; exact: whether the logits are, to the
    last bit, those that single tokens give."""

    tokens: int
    cost: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured, and what follows from it.

    spins: empty where barriers are not OpenMP's, where the user
    has set how they spin, and where one thread is best. load: the share of this machine's processors, 0 to 1, that
    other programs used before.
    """

    usual: int
    threads: Threads
    batches: tuple[Batch, ...]
    trials: tuple[Trial, ...]
    spin_count: int | None
    spins: tuple[SpinTrial, ...]
    load: float


Progress = LoadEvent | Evaluating


def measure(
    backend: Callable[[Preferences, int | None], LocalBackend], tunings: Tunings, cancel: Cancel
) -> Generator[Progress, None, Found | None]:
    """Measure and remember; None when cancelled.

    backend: for the model, with what it prefers and with so many threads. Raises what `LocalBackend.load` raises.
    """
    import psutil

    load = psutil.cpu_percent(_LOAD_S) / 100
    counts = candidates(usable_cores(), usable_cpus())
    first = backend(Fixed(), None)
    try:
        tuned = yield from _trials(first, Tune(counts, _ROUNDS, _TRIAL_S), cancel)
        if tuned is None:
            return None
        threads = chosen(tuned.trials)
        weighed = yield from _costs(first, threads, cancel)
        if weighed is None:
            return None
        library, header, offloaded = first.library_file, first.header, first.plan.n_gpu_layers > 0
        spins_matter = _has_gnu_barriers(first.pid)
        file_size = first.path.stat().st_size
    finally:
        first.close()
    spin_count: int | None = None
    spins: tuple[SpinTrial, ...] = ()
    if spins_matter and threads.generation > 1 and SPIN_VARIABLE not in os.environ:
        spins = yield from _spins(lambda spin: backend(Fixed(spin), threads.generation), threads.generation, cancel)
        if not spins:
            return None
        spin_count = chosen_spin(spins)
        tunings.remember_spin_count(file_size, spin_count)
    batches = weighed_batches(_BATCHES, weighed)
    tunings.remember(library, header, Measured(threads, usable_costs(batches)), offloaded=offloaded)
    return Found(counts[0], threads, batches, tuned.trials, spin_count, spins, load)


def chosen(trials: Sequence[Trial]) -> Threads:
    """The first trial is the usual one."""
    usual = trials[0].threads
    return Threads(
        fastest({trial.threads: trial.generation for trial in trials}, usual),
        fastest({trial.threads: trial.prompt for trial in trials}, usual),
    )


def weighed_batches(sizes: Sequence[int], weighed: Weighed) -> tuple[Batch, ...]:
    """What there is to know of each size but the first, which is a single token."""
    single = weighed.seconds[0]
    ratios = [median(one / other for one, other in zip(each, single, strict=True)) for each in weighed.seconds]
    batches = map(Batch, sizes, (round(ratio, 3) for ratio in ratios), weighed.exact)
    return tuple(batches)[1:]


def usable_costs(batches: Sequence[Batch]) -> BatchCosts:
    """Of those that may be guessed in: a reply must not depend on what was guessed."""
    return tuple((batch.tokens, batch.cost) for batch in batches if batch.exact)


def chosen_spin(trials: Sequence[SpinTrial]) -> int:
    """What is gained on idle cores must not be lost again when they are wanted: both count alike."""
    rates = {trial.spin_count: [sqrt(a * b) for a, b in zip(trial.idle, trial.busy, strict=True)] for trial in trials}
    return fastest(rates, trials[0].spin_count)


def _trials(backend: LocalBackend, request: Tune, cancel: Cancel) -> Generator[Progress, None, Tuned | None]:
    yield from backend.load(cancel)
    if cancel.is_set():
        return None
    return (yield from _measured(backend, request, Tuned, cancel))


def _costs(backend: LocalBackend, threads: Threads, cancel: Cancel) -> Generator[Progress, None, Weighed | None]:
    request = Weigh(threads.generation, threads.prompt, _BATCHES, _ROUNDS, _TRIAL_S / 4)
    return (yield from _measured(backend, request, Weighed, cancel))


def _measured(
    backend: LocalBackend, request: Measure, kind: type[_Found], cancel: Cancel
) -> Generator[Progress, None, _Found | None]:
    for reply in backend.measure(request, cancel):
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, Evaluating):
            yield reply
    return None


def _spins(
    backend: Callable[[int], LocalBackend], threads: int, cancel: Cancel
) -> Generator[Progress, None, tuple[SpinTrial, ...]]:
    """OpenMP reads its spin count when it starts, so that each trial is a process of its own."""
    idle: Mapping[int, list[float]] = {count: [] for count in _SPIN_COUNTS}
    busy: Mapping[int, list[float]] = {count: [] for count in _SPIN_COUNTS}
    for _ in range(_SPIN_ROUNDS):
        for count in _SPIN_COUNTS:
            engine = backend(count)
            try:
                for rates, company in ((idle, contextlib.nullcontext()), (busy, _another_program())):
                    with company:
                        tuned = yield from _trials(engine, Tune((threads,), 1, _TRIAL_S), cancel)
                    if tuned is None:
                        return ()
                    rates[count].append(tuned.trials[0].generation[0])
            finally:
                engine.close()
    return tuple(SpinTrial(count, tuple(idle[count]), tuple(busy[count])) for count in _SPIN_COUNTS)


@contextlib.contextmanager
def _another_program() -> Iterator[None]:
    """Something that wants a core."""
    with subprocess.Popen([sys.executable, "-S", "-c", _BUSY], stdin=subprocess.DEVNULL) as program:
        try:
            yield
        finally:
            program.kill()


def _has_gnu_barriers(pid: int) -> bool:
    """Whether a process has GNU's OpenMP loaded; elsewhere than on Linux it has another one."""
    try:
        return "libgomp" in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except OSError:
        return False
