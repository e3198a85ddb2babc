"""Whether and how fast a model would run here, without loading it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.config import EngineOptions
from phichat.engine.bandwidth import card_bandwidth, memory_bandwidth
from phichat.engine.caches import USUAL_CACHE_TYPE, plan_with_cache
from phichat.engine.cancel import Cancel
from phichat.engine.footprint import repacked_types
from phichat.engine.hardware import Hardware, probe_with
from phichat.engine.link import Deadlines
from phichat.engine.offload import CPU, OffloadPlan, OffloadRequest, bytes_read_per_token, plan
from phichat.engine.process import EngineProcess
from phichat.engine.verdicts import Verdict, Verdicts, subject
from phichat.gguf_header import GgufHeader

BATCH = 512
"""Prompt tokens evaluated at once: llama.cpp's own physical batch. A cancelled prompt ends inside one,
so a smaller batch would only cost speed."""

_LAYER_S = 1e-4
"""What a layer costs beside reading its weights, on a CPU: starting and joining the threads for each of its steps."""

_CARD_SHARE = 0.65
"""Of its memory's bandwidth, what llama.cpp makes use of on a GPU when it generates for one user."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine process found here. library_file: the shared library it loads."""

    hardware: Hardware
    library_file: Path


@dataclass(frozen=True, slots=True)
class Estimate:
    """tokens_per_second: None where nothing is known. how: one line that says how it was arrived at."""

    tokens_per_second: float | None
    how: str


def find_machine(cancel: Cancel) -> Machine | None:
    """Asks an engine process, which alone can see the devices; None when cancelled. Raises EngineError."""
    process = EngineProcess(Deadlines())
    try:
        hello = process.hello(cancel)
        return Machine(probe_with(hello), Path(hello.library_file)) if hello else None
    finally:
        process.close()


def place(header: GgufHeader, hardware: Hardware, options: EngineOptions, verdict: Verdict | None) -> OffloadPlan:
    """The plan for loading a model with these options. Raises UsageError for an unknown KV cache type."""
    request = OffloadRequest(
        n_ctx=options.ctx_size,
        n_gpu_layers=options.n_gpu_layers,
        type_k=options.cache_type_k or USUAL_CACHE_TYPE,
        type_v=options.cache_type_v or USUAL_CACHE_TYPE,
        n_ubatch=BATCH,
        n_threads=options.threads or hardware.physical_cores,
        repack=frozenset() if verdict is Verdict.CRASHES else repacked_types(platform.machine()),
    )
    chosen = options.cache_type_k or options.cache_type_v
    return plan(header, hardware, request) if chosen else plan_with_cache(header, hardware, request)


def fit(header: GgufHeader, machine: Machine, options: EngineOptions, verdicts: Verdicts) -> OffloadPlan:
    """The plan that loading the model would follow. Raises UsageError for an unknown KV cache type."""
    return place(header, machine.hardware, options, verdicts.lookup(subject(machine.library_file, header)))


def is_cramped(
    where: OffloadPlan, header: GgufHeader, hardware: Hardware, options: EngineOptions, verdict: Verdict | None
) -> bool:
    """Whether the plan would be a better one if all memory of the machine were free."""
    devices = tuple(replace(device, memory_free=device.memory_total) for device in hardware.devices)
    empty = replace(hardware, ram_available=hardware.ram_total, devices=devices)
    best = place(header, empty, options, verdict)
    same = (where.fits, where.n_ctx, where.n_gpu_layers, where.type_k)
    return same != (best.fits, best.n_ctx, best.n_gpu_layers, best.type_k)


def estimate(
    header: GgufHeader,
    hardware: Hardware,
    where: OffloadPlan,
    measure: Callable[[int], float] = memory_bandwidth,
) -> Estimate:
    """From the bandwidth of the memory that the weights lie in: generating a token reads each weight it uses once.

    measure: bytes per second that so many threads read of this machine's RAM; takes a fraction of a second.
    """
    read, layers = bytes_read_per_token(header), header.block_count
    on_cards = where.n_gpu_layers / (layers + 1)
    seconds, rates = 0.0, []
    if on_cards < 1:
        bandwidth = measure(hardware.physical_cores)
        seconds += (1 - on_cards) * (read / bandwidth + layers * _LAYER_S)
        rates.append(f"RAM {bandwidth / 1e9:.0f} GB/s, measured")
    used = [placement for placement in where.placements if placement.device != CPU]
    for placement in used:
        device = next(device for device in hardware.devices if device.name == placement.device)
        bandwidth = card_bandwidth(device.description) or 0.0
        if not bandwidth:
            return Estimate(
                None, f"how fast {device.description} reads its memory is not known; measure with `phichat bench`"
            )
        share = on_cards * placement.weights / sum(other.weights for other in used)
        seconds += share * read / (bandwidth * _CARD_SHARE)
        rates.append(
            f"{device.name} {bandwidth / 1e9:,.0f} GB/s by its data sheet, of which {_CARD_SHARE:.0%} are used"
        )
    return Estimate(1 / seconds, f"estimated: each token reads {read / 1e9:.2f} GB ({'; '.join(rates)})")
