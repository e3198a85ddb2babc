"""How many threads, and how long they spin at a barrier: what was measured on this machine, remembered.

What is best depends on the machine, on the build of the library and on how large the model is. Measurements
on a machine that others use too are noisy, so the usual choice stays unless another one wins each round.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from phichat.engine.hardware import usable_cores, usable_cpus
from phichat.engine.verdicts import build, cpu, cpu_name
from phichat.paths import write_atomically

_GAIN = 1.03
"""What is faster by less than this is not worth another choice."""
_MOST_CANDIDATES = 8

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Threads:
    """How many, to generate with and to evaluate prompts with."""

    generation: int
    prompt: int


class Preferences(Protocol):
    """What a model is loaded with where the user has not said it; None where nothing is known."""

    def spin_count(self, size: int) -> int | None:
        """For a model of so many bytes."""
        ...

    def threads(self, library_file: Path, size: int, *, offloaded: bool) -> Threads | None:
        """For a model of so many bytes. offloaded: whether some of it is on a GPU."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    spin: int | None = None

    def spin_count(self, size: int) -> int | None:
        return self.spin

    def threads(self, library_file: Path, size: int, *, offloaded: bool) -> Threads | None:
        return None


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


class Tunings:
    """What was measured for this user, in one JSON file. An unreadable file is an empty one, and one that
    cannot be written costs only the gain."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> Mapping[str, dict[str, Any]]:
        """key -> what was found, and for what."""
        try:
            document = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(document, dict):
            return {}
        return {key: entry for key, entry in document.items() if isinstance(entry, dict)}

    def spin_count(self, size: int) -> int | None:
        """As `Preferences.spin_count`."""
        return self._number(self.all(), _spin_key(size), "spin_count") if self._file.is_file() else None

    def threads(self, library_file: Path, size: int, *, offloaded: bool) -> Threads | None:
        """As `Preferences.threads`."""
        known = self.all()
        key = _threads_key(library_file, size, offloaded=offloaded) if known else ""
        generation, prompt = self._number(known, key, "threads"), self._number(known, key, "prompt_threads")
        return Threads(generation, prompt) if generation and prompt else None

    @staticmethod
    def _number(known: Mapping[str, dict[str, Any]], key: str, name: str) -> int | None:
        value = known.get(key, {}).get(name)
        return value if isinstance(value, int) and 1 <= value <= 1_000_000 else None

    def remember_spin_count(self, size: int, count: int) -> None:
        """Keep it for models of about that size."""
        self._keep(_spin_key(size), size, {"spin_count": count})

    def remember_threads(self, library_file: Path, size: int, found: Threads, *, offloaded: bool) -> None:
        """Keep them for this library and models of about that size."""
        entry = {"threads": found.generation, "prompt_threads": found.prompt, "library": str(library_file)}
        self._keep(_threads_key(library_file, size, offloaded=offloaded), size, {**entry, "offloaded": offloaded})

    def _keep(self, key: str, size: int, found: Mapping[str, Any]) -> None:
        least = 1 << _size_class(size)
        known = {**self.all(), key: {**found, "cpu": cpu_name(cpu()), "sizes": [least, 2 * least]}}
        try:
            write_atomically(self._file, json.dumps(known, indent=1).encode())
        except OSError:
            return


def _size_class(size: int) -> int:
    """Models that are larger by less than twice are alike."""
    return max(0, size.bit_length() - 1)


def _spin_key(size: int) -> str:
    return _key("spin", _size_class(size))


def _threads_key(library_file: Path, size: int, *, offloaded: bool) -> str:
    return _key("threads", build(library_file), _size_class(size), offloaded)


def _key(*about: object) -> str:
    machine = (cpu(), usable_cores(), usable_cpus())
    return hashlib.sha256(repr((machine, about)).encode()).hexdigest()[:24]
