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

from phichat.engine.autotune.cpu_buffer_probe import build_probe_key, parse_cpu_name, read_cpu_info
from phichat.engine.ipc.process import DEFAULT_SPIN_COUNT
from phichat.engine.planner.hardware import count_usable_cores, count_usable_cpus
from phichat.gguf.header import GgufHeader
from phichat.storage.json_file import JsonFile

_MIN_SPEEDUP = 1.03
"""What is faster by less than this is not worth another choice."""
_MAX_CANDIDATES = 8

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
class ComputeSettings:
    """What a model is computed with. batch_costs: empty where they were not measured."""

    threads: Threads
    batch_costs: BatchCosts = ()


class TuningSource(Protocol):
    """What a model is loaded with where the user has not said it; None where nothing is known."""

    def get_spin_count(self, model_bytes: int) -> int | None:
        """For a model of so many bytes."""
        ...

    def get_settings(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> ComputeSettings | None:
        """For a model like that. offloaded: whether some of it is on a GPU."""
        ...


@dataclass(frozen=True, slots=True)
class StaticTuning:
    """Always the same."""

    fixed_spin_count: int | None = None

    def get_spin_count(self, model_bytes: int) -> int | None:
        return self.fixed_spin_count

    def get_settings(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> ComputeSettings | None:
        return None


def resolve_spin_count(path: Path, tuning_source: TuningSource) -> int:
    """What an engine for that model is started with, before its header is read: of one in several files the first
    has to do."""
    size = path.stat().st_size if path.is_file() else 0
    return tuning_source.get_spin_count(size) or DEFAULT_SPIN_COUNT


def list_thread_candidates(physical_cores: int, logical_cpus: int) -> tuple[int, ...]:
    """Numbers of threads to try, the usual one first: all up to the physical cores and the logical ones, or
    some of them where they are many. Logical CPUs beyond two a core are not this process's to use."""
    max_threads = max(physical_cores, min(logical_cpus, 2 * physical_cores))
    counts = {*range(1, physical_cores + 1), max_threads}
    if len(counts) > _MAX_CANDIDATES:
        counts = {physical_cores * eighths // 8 for eighths in (1, 2, 4, 5, 6, 7)} | {physical_cores, max_threads}
    return (physical_cores, *sorted(counts - {physical_cores, 0}))


def select_fastest(rates: Mapping[_T, Sequence[float]], baseline: _T) -> _T:
    """The one that is faster than the usual one: in every round, and by a few percent in the middle.

    rates: for each candidate one of each round, which were measured in turn.
    """
    best, best_ratio = baseline, _MIN_SPEEDUP
    for candidate, speeds in rates.items():
        ratios = [one / other for one, other in zip(speeds, rates[baseline], strict=True)]
        if min(ratios) > 1 and median(ratios) >= best_ratio:
            best, best_ratio = candidate, median(ratios)
    return best


class TuningCache(JsonFile):
    """What was measured for this user."""

    def get_spin_count(self, model_bytes: int) -> int | None:
        """As `Preferences.spin_count`."""
        return (
            self._get_int(self.load_entries(), _make_spin_count_key(model_bytes), "spin_count")
            if self.path.is_file()
            else None
        )

    def get_settings(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> ComputeSettings | None:
        """As `Preferences.measured`."""
        entries = self.load_entries()
        key = _make_settings_key(library_file, header, offloaded=offloaded) if entries else ""
        generation, prompt = self._get_int(entries, key, "threads"), self._get_int(entries, key, "prompt_threads")
        if not generation or not prompt:
            return None
        return ComputeSettings(Threads(generation, prompt), _parse_batch_costs(entries[key].get("batch_costs")))

    @staticmethod
    def _get_int(entries: Mapping[str, dict[str, Any]], key: str, name: str) -> int | None:
        value = entries.get(key, {}).get(name)
        return value if isinstance(value, int) and 1 <= value <= 1_000_000 else None

    def store_spin_count(self, size: int, count: int) -> None:
        """Keep it for models of about that size."""
        self._store_for_size(_make_spin_count_key(size), size, {"spin_count": count})

    def store_settings(
        self, library_file: Path, header: GgufHeader, settings: ComputeSettings, *, offloaded: bool
    ) -> None:
        """Keep it for this library and models like that: of about its size, its architecture and its types."""
        entry = {
            "threads": settings.threads.generation,
            "prompt_threads": settings.threads.prompt,
            "batch_costs": settings.batch_costs,
            "library": str(library_file),
            "offloaded": offloaded,
        }
        self._store_for_size(_make_settings_key(library_file, header, offloaded=offloaded), header.file_size, entry)

    def _store_for_size(self, key: str, size: int, values: Mapping[str, Any]) -> None:
        min_size = 1 << _compute_size_class(size)
        self.store_entry(key, {**values, "cpu": parse_cpu_name(read_cpu_info()), "sizes": [min_size, 2 * min_size]})


def _parse_batch_costs(value: object) -> BatchCosts:
    """Empty where it makes no sense."""
    try:
        costs = tuple((int(size), float(cost)) for size, cost in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        return ()
    is_valid = all(2 <= size <= 64 and 0.1 <= cost <= 1000 for size, cost in costs)
    return costs if is_valid and [size for size, _ in costs] == sorted(size for size, _ in costs) else ()


def _compute_size_class(size: int) -> int:
    """Models that are larger by less than twice are alike."""
    return max(0, size.bit_length() - 1)


def _make_spin_count_key(size: int) -> str:
    return _make_key("spin", _compute_size_class(size))


def _make_settings_key(library_file: Path, header: GgufHeader, *, offloaded: bool) -> str:
    probe_key = build_probe_key(library_file, header)
    return _make_key(
        "library",
        probe_key.library,
        probe_key.weight_types,
        header.architecture,
        _compute_size_class(header.file_size),
        offloaded,
    )


def _make_key(*parts: object) -> str:
    machine = (read_cpu_info(), count_usable_cores(), count_usable_cpus())
    return hashlib.sha256(repr((machine, parts)).encode()).hexdigest()[:24]
