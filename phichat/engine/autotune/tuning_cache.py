"""Cached measurements of this machine: numbers of threads, and how long they spin at a barrier.

The best values depend on the machine, on the build of the library and on the size of the model. Measurements on a
machine with other programs are noisy, so the default stands unless another value wins each round.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from phichat.engine.autotune.cpu_buffer_probe import build_probe_key, parse_cpu_name, read_cpu_info
from phichat.engine.ipc.process import DEFAULT_SPIN_COUNT
from phichat.engine.planner.hardware import count_usable_cores, count_usable_cpus
from phichat.gguf.header import GgufHeader
from phichat.storage.json_file import JsonFile

_MIN_SPEEDUP = 1.03
"""A candidate must be faster than the default by this factor."""
_MAX_CANDIDATES = 8

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Threads:
    """Numbers of threads for generation and for prefill."""

    generation: int
    prompt: int


BatchCosts = tuple[tuple[int, float], ...]
"""(batch size, cost of evaluating such a batch relative to a single token)."""

ASSUMED_BATCH_COSTS: BatchCosts = ((2, 1.1), (3, 1.2))
"""For a user who asks for speculation where costs were not measured."""


@dataclass(frozen=True, slots=True)
class ComputeSettings:
    """Settings that a model is computed with. batch_costs: empty where they were not measured."""

    threads: Threads
    batch_costs: BatchCosts = ()


@dataclass(frozen=True, slots=True)
class StaticTuning:
    """Defaults for settings that the user left open, where nothing was measured: None, or a fixed spin count."""

    spin_count: int | None = None

    def get_spin_count(self, model_bytes: int) -> int | None:
        """Return the iterations that OpenMP spins for a model of this size in bytes."""
        return self.spin_count

    def get_settings(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> ComputeSettings | None:
        """Return the settings for models like this. offloaded: some layers are on a GPU."""
        return None


def list_thread_candidates(physical_cores: int, logical_cpus: int) -> tuple[int, ...]:
    """Return the numbers of threads to try, the default first: up to the physical cores and the logical CPUs, or at
    most 8 of these numbers. Logical CPUs beyond two per core are not this process's to use."""
    max_threads = max(physical_cores, min(logical_cpus, 2 * physical_cores))
    counts = {*range(1, physical_cores + 1), max_threads}
    if len(counts) > _MAX_CANDIDATES:
        counts = {physical_cores * eighths // 8 for eighths in (1, 2, 4, 5, 6, 7)} | {physical_cores, max_threads}
    return (physical_cores, *sorted(counts - {physical_cores, 0}))


def select_fastest(rates: Mapping[_T, Sequence[float]], baseline: _T) -> _T:
    """Return the candidate that is faster than the baseline in every round, and by at least 3 % in the median.
    rates: of each candidate, one per round; the rounds were measured in turn."""
    best, best_ratio = baseline, _MIN_SPEEDUP
    for candidate, speeds in rates.items():
        ratios = [one / other for one, other in zip(speeds, rates[baseline], strict=True)]
        if min(ratios) > 1 and median(ratios) >= best_ratio:
            best, best_ratio = candidate, median(ratios)
    return best


class TuningCache(JsonFile):
    """File with the measurements of this user; None where nothing was measured. See `StaticTuning`."""

    def get_spin_count(self, model_bytes: int) -> int | None:
        entries = self.load_entries()
        entry = entries.get(_make_key("spin", _compute_size_class(model_bytes))) if entries else None
        return _get_int(entry, "spin_count")

    def get_settings(self, library_file: Path, header: GgufHeader, *, offloaded: bool) -> ComputeSettings | None:
        entries = self.load_entries()
        entry = entries.get(_make_settings_key(library_file, header, offloaded=offloaded)) if entries else None
        generation, prompt = _get_int(entry, "threads"), _get_int(entry, "prompt_threads")
        if not entry or not generation or not prompt:
            return None
        return ComputeSettings(Threads(generation, prompt), _parse_batch_costs(entry.get("batch_costs")))

    def store_spin_count(self, model_bytes: int, count: int) -> None:
        """Remember the spin count for models of about this size."""
        self._store(_make_key("spin", _compute_size_class(model_bytes)), model_bytes, {"spin_count": count})

    def store_settings(
        self, library_file: Path, header: GgufHeader, settings: ComputeSettings, *, offloaded: bool
    ) -> None:
        """Remember settings for this library and models of this architecture, weight types and about this size."""
        entry = {
            "threads": settings.threads.generation,
            "prompt_threads": settings.threads.prompt,
            "batch_costs": settings.batch_costs,
            "library": str(library_file),
            "offloaded": offloaded,
        }
        self._store(_make_settings_key(library_file, header, offloaded=offloaded), header.file_size, entry)

    def _store(self, key: str, model_bytes: int, values: Mapping[str, Any]) -> None:
        sizes = [1 << _compute_size_class(model_bytes), 2 << _compute_size_class(model_bytes)]
        self.store_entry(key, {**values, "cpu": parse_cpu_name(read_cpu_info()), "sizes": sizes})


TuningSource = StaticTuning | TuningCache


def resolve_spin_count(path: Path, tuning_source: TuningSource) -> int:
    """Return the spin count for an engine process to start before the model's header is read.
    Of a model in several files, the size of the first one counts."""
    return tuning_source.get_spin_count(path.stat().st_size if path.is_file() else 0) or DEFAULT_SPIN_COUNT


def _get_int(entry: Mapping[str, Any] | None, name: str) -> int | None:
    value = entry.get(name) if entry else None
    return value if isinstance(value, int) and 1 <= value <= 1_000_000 else None


def _parse_batch_costs(value: object) -> BatchCosts:
    """Return the costs in a cache file, () where they are implausible."""
    try:
        costs = tuple((int(size), float(cost)) for size, cost in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError, OverflowError):
        return ()
    is_valid = all(2 <= size <= 64 and 0.1 <= cost <= 1000 for size, cost in costs)
    sizes = [size for size, _ in costs]
    return costs if is_valid and sizes == sorted(sizes) else ()


def _compute_size_class(model_bytes: int) -> int:
    """Return the binary logarithm, rounded down: models whose sizes differ by less than twice share measurements."""
    return max(0, model_bytes.bit_length() - 1)


def _make_settings_key(library_file: Path, header: GgufHeader, *, offloaded: bool) -> str:
    probe_key, size_class = build_probe_key(library_file, header), _compute_size_class(header.file_size)
    return _make_key("library", probe_key.library, probe_key.weight_types, header.architecture, size_class, offloaded)


def _make_key(*parts: object) -> str:
    machine = (read_cpu_info(), count_usable_cores(), count_usable_cpus())
    return hashlib.sha256(repr((machine, parts)).encode()).hexdigest()[:24]
