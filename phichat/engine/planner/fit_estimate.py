"""Placement and speed of a model on this machine, without loading it."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from dataclasses import dataclass

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeOutcome
from phichat.engine.ipc.connection import EngineTimeouts
from phichat.engine.ipc.process import EngineProcess
from phichat.engine.planner.hardware import Hardware, probe_from_engine
from phichat.engine.planner.kv_cache_types import DEFAULT_CACHE_TYPE, plan_with_cache_types
from phichat.engine.planner.memory_bandwidth import lookup_gpu_bandwidth, measure_memory_bandwidth
from phichat.engine.planner.memory_estimate import compute_bytes_per_token, find_repack_types
from phichat.engine.planner.offload_plan import CPU, OffloadPlan, OffloadRequest, plan_offload
from phichat.gguf.header import GgufHeader

BATCH_SIZE = 512
"""Prompt tokens evaluated at once: llama.cpp's default n_ubatch. A cancel also ends a prompt inside a batch, so a
smaller one would only cost speed."""

_LAYER_OVERHEAD_S = 1e-4
"""Time per layer on a CPU besides reading its weights: starting and joining the threads for each of its steps."""

_GPU_EFFICIENCY = 0.65
"""Part of the memory bandwidth that llama.cpp uses on a GPU when it generates one reply."""


@dataclass(frozen=True, slots=True)
class SpeedEstimate:
    """Speed of generation, None where it is unknown. explanation: one line for people."""

    tokens_per_second: float | None
    explanation: str


def probe_machine(cancel: CancelToken) -> Hardware | None:
    """Start an engine process to see the devices; None when cancelled. Raises EngineError."""
    with contextlib.closing(EngineProcess(EngineTimeouts())) as process:
        engine_info = process.handshake(cancel)
    return probe_from_engine(engine_info) if engine_info else None


def plan_placement(
    header: GgufHeader, hardware: Hardware, options: EngineOptions, probe_outcome: ProbeOutcome | None
) -> OffloadPlan:
    """Return the plan for loading a model with these options. Raises UsageError for an unknown KV cache type."""
    request = OffloadRequest(
        n_ctx=options.ctx_size,
        n_gpu_layers=options.n_gpu_layers,
        type_k=options.cache_type_k or DEFAULT_CACHE_TYPE,
        type_v=options.cache_type_v or DEFAULT_CACHE_TYPE,
        n_ubatch=BATCH_SIZE,
        n_threads=options.threads or hardware.physical_cores,
        repack_types=frozenset() if probe_outcome is ProbeOutcome.CRASHES else find_repack_types(platform.machine()),
    )
    choose_types = not (options.cache_type_k or options.cache_type_v)
    return (plan_with_cache_types if choose_types else plan_offload)(header, hardware, request)


def estimate_speed(
    header: GgufHeader,
    hardware: Hardware,
    plan: OffloadPlan,
    measure_bandwidth: Callable[[int], float] = measure_memory_bandwidth,
) -> SpeedEstimate:
    """Estimate from the memory bandwidth: generating a token reads each weight that it uses once.
    measure_bandwidth: bytes per second that this many threads read from RAM; takes a fraction of a second."""
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
        if not (bandwidth := lookup_gpu_bandwidth(device.description) or 0.0):
            explanation = f"The memory bandwidth of {device.description} is unknown. Measure with `phichat bench`."
            return SpeedEstimate(None, explanation)
        fraction = gpu_fraction * placement.weights / sum(other.weights for other in gpu_placements)
        seconds_per_token += fraction * bytes_per_token / (bandwidth * _GPU_EFFICIENCY)
        sources.append(f"{device.name} {_GPU_EFFICIENCY:.0%} of the {bandwidth / 1e9:,.0f} GB/s of its data sheet")
    explanation = f"estimated: each token reads {bytes_per_token / 1e9:.2f} GB ({'; '.join(sources)})"
    return SpeedEstimate(1 / seconds_per_token, explanation)
