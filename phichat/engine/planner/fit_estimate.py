"""Whether and how fast a model would run here, without loading it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeOutcome, build_probe_key
from phichat.engine.ipc.connection import EngineTimeouts
from phichat.engine.ipc.process import EngineProcess
from phichat.engine.planner.hardware import Hardware, probe_from_engine
from phichat.engine.planner.kv_cache_types import DEFAULT_CACHE_TYPE, plan_with_cache_types
from phichat.engine.planner.memory_bandwidth import lookup_gpu_bandwidth, measure_memory_bandwidth
from phichat.engine.planner.memory_estimate import find_repack_types
from phichat.engine.planner.offload_plan import CPU, OffloadPlan, OffloadRequest, compute_bytes_per_token, plan_offload
from phichat.gguf.header import GgufHeader

BATCH_SIZE = 512
"""Prompt tokens evaluated at once: llama.cpp's own physical batch. A cancelled prompt ends inside one,
so a smaller batch would only cost speed."""

_LAYER_OVERHEAD_S = 1e-4
"""What a layer costs beside reading its weights, on a CPU: starting and joining the threads for each of its steps."""

_GPU_BANDWIDTH_EFFICIENCY = 0.65
"""Of its memory's bandwidth, what llama.cpp makes use of on a GPU when it generates for one user."""


@dataclass(frozen=True, slots=True)
class ProbedMachine:
    """What an engine process found here. library_file: the shared library it loads."""

    hardware: Hardware
    library_file: Path


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """tokens_per_second: None where nothing is known. how: one line that says how it was arrived at."""

    tokens_per_second: float | None
    explanation: str


def probe_machine(cancel: CancelToken) -> ProbedMachine | None:
    """Asks an engine process, which alone can see the devices; None when cancelled. Raises EngineError."""
    process = EngineProcess(EngineTimeouts())
    try:
        engine_info = process.handshake(cancel)
        return ProbedMachine(probe_from_engine(engine_info), Path(engine_info.library_file)) if engine_info else None
    finally:
        process.close()


def plan_placement(
    header: GgufHeader, hardware: Hardware, options: EngineOptions, probe_outcome: ProbeOutcome | None
) -> OffloadPlan:
    """The plan for loading a model with these options. Raises UsageError for an unknown KV cache type."""
    request = OffloadRequest(
        n_ctx=options.ctx_size,
        n_gpu_layers=options.n_gpu_layers,
        type_k=options.cache_type_k or DEFAULT_CACHE_TYPE,
        type_v=options.cache_type_v or DEFAULT_CACHE_TYPE,
        n_ubatch=BATCH_SIZE,
        n_threads=options.threads or hardware.physical_cores,
        repack_types=frozenset() if probe_outcome is ProbeOutcome.CRASHES else find_repack_types(platform.machine()),
    )
    explicit_type = options.cache_type_k or options.cache_type_v
    return (
        plan_offload(header, hardware, request) if explicit_type else plan_with_cache_types(header, hardware, request)
    )


def plan_for_machine(
    header: GgufHeader, machine: ProbedMachine, options: EngineOptions, probe_cache: ProbeCache
) -> OffloadPlan:
    """The plan that loading the model would follow. Raises UsageError for an unknown KV cache type."""
    return plan_placement(
        header, machine.hardware, options, probe_cache.lookup(build_probe_key(machine.library_file, header))
    )


def would_improve_with_free_memory(
    plan: OffloadPlan,
    header: GgufHeader,
    hardware: Hardware,
    options: EngineOptions,
    probe_outcome: ProbeOutcome | None,
) -> bool:
    """Whether the plan would be a better one if all memory of the machine were free."""
    devices = tuple(replace(device, memory_free=device.memory_total) for device in hardware.devices)
    idle_hardware = replace(hardware, ram_available=hardware.ram_total, devices=devices)
    best_plan = plan_placement(header, idle_hardware, options, probe_outcome)
    current_values = (plan.fits, plan.n_ctx, plan.n_gpu_layers, plan.type_k)
    return current_values != (best_plan.fits, best_plan.n_ctx, best_plan.n_gpu_layers, best_plan.type_k)


def estimate_speed(
    header: GgufHeader,
    hardware: Hardware,
    plan: OffloadPlan,
    measure_bandwidth: Callable[[int], float] = measure_memory_bandwidth,
) -> SpeedEstimate:
    """From the bandwidth of the memory that the weights lie in: generating a token reads each weight it uses once.

    measure: bytes per second that so many threads read of this machine's RAM; takes a fraction of a second.
    """
    bytes_per_token, layers = compute_bytes_per_token(header), header.block_count
    gpu_fraction = plan.n_gpu_layers / (layers + 1)
    seconds_per_token, sources = 0.0, []
    if gpu_fraction < 1:
        bandwidth = measure_bandwidth(hardware.physical_cores)
        seconds_per_token += (1 - gpu_fraction) * (bytes_per_token / bandwidth + layers * _LAYER_OVERHEAD_S)
        sources.append(f"RAM {bandwidth / 1e9:.0f} GB/s, measured")
    gpu_placements = [placement for placement in plan.placements if placement.device != CPU]
    for placement in gpu_placements:
        device = next(device for device in hardware.devices if device.name == placement.device)
        bandwidth = lookup_gpu_bandwidth(device.description) or 0.0
        if not bandwidth:
            return SpeedEstimate(
                None, f"how fast {device.description} reads its memory is not known; measure with `phichat bench`"
            )
        fraction = gpu_fraction * placement.weights / sum(other.weights for other in gpu_placements)
        seconds_per_token += fraction * bytes_per_token / (bandwidth * _GPU_BANDWIDTH_EFFICIENCY)
        sources.append(
            f"{device.name} {bandwidth / 1e9:,.0f} GB/s by its data sheet, of which {_GPU_BANDWIDTH_EFFICIENCY:.0%} are used"
        )
    return SpeedEstimate(
        1 / seconds_per_token, f"estimated: each token reads {bytes_per_token / 1e9:.2f} GB ({'; '.join(sources)})"
    )
