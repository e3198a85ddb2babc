"""How many threads, and how long they spin at a barrier: what was measured on this machine, remembered.

What is best depends on the machine, on the build of the library and on how large the model is. Measurements
on a machine that others use too are noisy, so the usual choice stays unless another one wins each round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from phichat.engine.hardware import usable_cores, usable_cpus
from phichat.engine.process import USUAL_SPIN_COUNT
from phichat.engine.remembered import Remembered
from phichat.engine.verdicts import cpu, cpu_name, subject
from phichat.gguf_header import GgufHeader

_GAIN = 1.03
"""What is faster by less than this is not worth another choice."""
_MOST_CANDIDATES = 8

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Threads:
    """How many, to generate with and to evaluate prompts with."""

    generation: int
    prompt: int


BatchCosts = tuple[tuple[int, float], ...]
"""Sizes of batches, and what evaluating one costs in terms of a single token."""


ASSUMED_BATCH_COSTS: BatchCosts = ((2, 1.1), (3, 1.2))
"""Where they were not measured, and a user wants guesses nevertheless."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a model is computed with. batch_costs: empty where they were not measured."""

    threads: Threads
    batch_costs: BatchCosts = ()


class Preferences(Protocol):
    """What a model is loaded with where the user has not said it; None where nothing is known."""

    def spin_count(self, size: int) -> int | None:
        """For a model of so many bytes."""
        ...

    def measured(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> Measured | None:
        """For a model like that. offloaded: whether some of it is on a GPU."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    spin: int | None = None

    def spin_count(self, size: int) -> int | None:
        return self.spin

    def measured(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> Measured | None:
        return None


def spin_count_for(path: Path, preferences: Preferences) -> int:
    """What an engine for that model is started with, before its header is read: of one in several files the first
    has to do."""
    size = path.stat().st_size if path.is_file() else 0
    return preferences.spin_count(size) or USUAL_SPIN_COUNT


def candidates(physical: int, logical: int) -> tuple[int, ...]:
    """Numbers of threads to try, the usual one first: all up to the physical cores and the logical ones, or
    some of them where they are many. Logical CPUs beyond two a core are not this process's to use."""
    most = max(physical, min(logical, 2 * physical))
    counts = {*range(1, physical + 1), most}
    if len(counts) > _MOST_CANDIDATES:
        counts = {physical * eighths // 8 for eighths in (1, 2, 4, 5, 6, 7)} | {physical, most}
    return (physical, *sorted(counts - {physical, 0}))


def fastest(rates: Mapping[_T, Sequence[float]], usual: _T) -> _T:
    """The one that is faster than the usual one: in every round, and by a few percent in the middle.

    rates: for each candidate one of each round, which were measured in turn.
    """
    best, gain = usual, _GAIN
    for candidate, measured in rates.items():
        ratios = [one / other for one, other in zip(measured, rates[usual], strict=True)]
        if min(ratios) > 1 and median(ratios) >= gain:
            best, gain = candidate, median(ratios)
    return best


class Tunings(Remembered):
    """What was measured for this user."""

    def spin_count(self, size: int) -> int | None:
        """As `Preferences.spin_count`."""
        return self._number(self.all(), _spin_key(size), "spin_count") if self._file.is_file() else None

    def measured(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> Measured | None:
        """As `Preferences.measured`."""
        known = self.all()
        key = _library_key(library_file, header, offloaded=offloaded) if known else ""
        generation, prompt = self._number(known, key, "threads"), self._number(known, key, "prompt_threads")
        if not generation or not prompt:
            return None
        return Measured(Threads(generation, prompt), _batch_costs(known[key].get("batch_costs")))

    @staticmethod
    def _number(known: Mapping[str, dict[str, Any]], key: str, name: str) -> int | None:
        value = known.get(key, {}).get(name)
        return value if isinstance(value, int) and 1 <= value <= 1_000_000 else None

    def remember_spin_count(self, size: int, count: int) -> None:
        """Keep it for models of about that size."""
        self._keep_for(_spin_key(size), size, {"spin_count": count})

    def remember(self, library_file: Path, header: GgufHeader, found: Measured, *, offloaded: bool) -> None:
        """Keep it for this library and models like that: of about its size, its architecture and its types."""
        entry = {
            "threads": found.threads.generation,
            "prompt_threads": found.threads.prompt,
            "batch_costs": found.batch_costs,
            "library": str(library_file),
            "offloaded": offloaded,
        }
        self._keep_for(_library_key(library_file, header, offloaded=offloaded), header.file_size, entry)

    def _keep_for(self, key: str, size: int, found: Mapping[str, Any]) -> None:
        least = 1 << _size_class(size)
        self._keep(key, {**found, "cpu": cpu_name(cpu()), "sizes": [least, 2 * least]})


def _batch_costs(value: object) -> BatchCosts:
    """Empty where it makes no sense."""
    try:
        costs = tuple((int(size), float(cost)) for size, cost in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        return ()
    sound = all(2 <= size <= 64 and 0.1 <= cost <= 1000 for size, cost in costs)
    return costs if sound and [size for size, _ in costs] == sorted(size for size, _ in costs) else ()


def _size_class(size: int) -> int:
    """Models that are larger by less than twice are alike."""
    return max(0, size.bit_length() - 1)


def _spin_key(size: int) -> str:
    return _key("spin", _size_class(size))


def _library_key(library_file: Path, header: GgufHeader, *, offloaded: bool) -> str:
    about = subject(library_file, header)
    return _key("library", about.library, about.weights, header.architecture, _size_class(header.file_size), offloaded)


def _key(*about: object) -> str:
    machine = (cpu(), usable_cores(), usable_cpus())
    return hashlib.sha256(repr((machine, about)).encode()).hexdigest()[:24]
