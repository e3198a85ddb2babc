"""Whether and how fast a model would run here, without loading it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

from phichat.config import EngineOptions
from phichat.engine.bandwidth import memory_bandwidth
from phichat.engine.cancel import Cancel
from phichat.engine.footprint import repacked_types
from phichat.engine.hardware import DeviceKind, Hardware, probe_with
from phichat.engine.offload import OffloadPlan, OffloadRequest, bytes_read_per_token, plan
from phichat.engine.process import Deadlines, EngineProcess
from phichat.engine.verdicts import Verdict, Verdicts, subject
from phichat.gguf_header import GgufHeader

BATCH = 512
"""Prompt tokens evaluated at once: llama.cpp's own physical batch. A cancelled prompt ends inside one,
so a smaller batch would only cost speed."""

_LAYER_S = 1e-4
"""What a layer costs beside reading its weights, on a CPU: starting and joining the threads for each of its steps."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine process found here. library_file: the shared library it loads."""

    hardware: Hardware
    library_file: Path


@dataclass(frozen=True, slots=True)
class Estimate:
    """tokens_per_second None where nothing is known; how: one line that says how it was arrived at."""

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


def offload_request(options: EngineOptions, threads: int, verdict: Verdict | None) -> OffloadRequest:
    """What the planner is asked when a model is loaded with these options."""
    return OffloadRequest(
        n_ctx=options.ctx_size,
        n_gpu_layers=options.n_gpu_layers,
        type_k=options.cache_type_k,
        type_v=options.cache_type_v,
        n_ubatch=BATCH,
        n_threads=threads,
        repack=frozenset() if verdict is Verdict.CRASHES else repacked_types(platform.machine()),
    )


def fit(header: GgufHeader, machine: Machine, options: EngineOptions, verdicts: Verdicts) -> OffloadPlan:
    """The plan that loading the model would follow. Raises UsageError for an unknown KV cache type."""
    threads = options.threads or machine.hardware.physical_cores
    verdict = verdicts.lookup(subject(machine.library_file, header))
    return plan(header, machine.hardware, offload_request(options, threads, verdict))


def estimate(header: GgufHeader, machine: Machine, where: OffloadPlan) -> Estimate:
    """From the memory bandwidth, which is measured now in a fraction of a second.

    Generating a token reads every weight it uses once, and each layer costs a little beside.
    """
    cards = {device.name for device in machine.hardware.devices if device.kind is DeviceKind.GPU}
    if any(placement.device in cards for placement in where.placements):
        return Estimate(None, "measure it with `phichat bench`: the speed of the GPU's memory is not known")
    bandwidth = memory_bandwidth(machine.hardware.physical_cores)
    read = bytes_read_per_token(header)
    seconds = read / bandwidth + header.block_count * _LAYER_S
    return Estimate(
        1 / seconds,
        f"estimated: {read / 1e9:.2f} GB are read for each token and memory gives {bandwidth / 1e9:.1f} GB/s",
    )
