"""Placement of a model's layers on the devices, and whether it fits.

llama.cpp (llama-model.cpp, load_tensors) gives whole repeating layers, each with its share of the KV cache, to the
devices in order, the output layer after the last; the token embedding stays on the CPU. This planner fills the
devices from the end of the model, so that layers which do not fit are the first ones, and stay on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

from phichat.config.settings import GpuLayers
from phichat.engine.ipc.protocol import DeviceInfo
from phichat.engine.planner import memory_estimate as memory
from phichat.engine.planner.hardware import DeviceKind, Hardware, find_offload_devices
from phichat.engine.planner.memory_estimate import CONTEXT_STEP, MIB, WeightSizes, group_weights, parse_cache_type
from phichat.errors import ModelDoesNotFit
from phichat.gguf.header import GgufHeader

CPU = "CPU"

_DEFAULT_CONTEXT = 8192
_MIN_FULL_OFFLOAD_CONTEXT = 4096
_MIN_CONTEXT = 2048
_DEFAULT_TRAINING_CONTEXT = 1 << 17
_RAM_RESERVE_BYTES = 256 * MIB
_MIN_GPU_MARGIN_BYTES = 512 * MIB
_GPU_RUNTIME_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """Options of the user and of the machine.

    n_ctx: tokens, None to choose. n_gpu_layers: as llama.cpp counts, the output layer is one more than the
    repeating ones. type_k, type_v: ggml types of the KV cache. n_ubatch: tokens evaluated at once.
    repack_types: ggml types that the CPU backend repacks, from `find_repack_types`; empty when the engine loads
    without extra buffer types.
    """

    n_ctx: int | None = None
    n_gpu_layers: GpuLayers = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    n_ubatch: int = 512
    n_threads: int = 1
    repack_types: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Placement:
    """Bytes on one device; device is ggml's name, or CPU."""

    device: str
    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True, slots=True)
class Shortage:
    """Missing memory, in bytes; location is a device or RAM."""

    location: str
    needed: int
    available: int

    @property
    def missing(self) -> int:
        return self.needed - self.available


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """Parameters to load a model with, and the memory that takes, in bytes.

    n_gpu_layers: repeating layers on GPUs, and 1 more with the output layer. tensor_split: layers of each device,
    empty with fewer than two. placements: the CPU first. reclaimable: of the CPU's weights, mapped pages of which a
    repacked copy exists, which the system drops when memory gets scarce; resident at first.
    max_ctx: the largest context that fits with the other options, 0 when none does. usable_memory: of the GPUs, or of
    RAM where that is more. shortage: the largest one. next_step: advises the option that makes the model fit; ""
    when it fits, or when no option does.
    """

    n_ctx: int
    type_k: str
    type_v: str
    n_gpu_layers: int
    tensor_split: tuple[float, ...]
    placements: tuple[Placement, ...]
    reclaimable: int
    max_ctx: int
    usable_memory: int
    shortage: Shortage | None
    shortfall: int
    next_step: str
    notices: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.shortage is None

    @property
    def quality(self) -> tuple[bool, int, int, str]:
        """Parts of the plan that more free memory can improve."""
        return self.fits, self.n_ctx, self.n_gpu_layers, self.type_k

    @property
    def all_devices(self) -> Placement:
        """Sum of the placements."""
        parts = zip(*((each.weights, each.kv_cache, each.compute) for each in self.placements), strict=True)
        return Placement("all", *map(sum, parts))

    @property
    def total(self) -> int:
        return self.all_devices.total


def plan_offload(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> OffloadPlan:
    """Return the best way to load this model here; a plan that does not fit is complete too.

    The context is request.n_ctx where given. Otherwise it is the training length, at most 8,192 tokens, and less
    (4,096 and more) when that lets every layer onto the GPUs, or (2,048 and more) when nothing else fits.
    Raises UsageError for an unknown KV cache type.
    """
    gpus = find_offload_devices(hardware)
    # With a GPU backend, llama.cpp prefers its pinned host buffers to the repacking ones.
    weights = group_weights(header, frozenset() if gpus else request.repack_types)
    planner = _Planner(header, hardware, request, gpus, weights)
    n_ctx = request.n_ctx or planner.select_context()
    assignment = planner.assign_layers(n_ctx)
    limit = max(n_ctx, header.context_length or _DEFAULT_TRAINING_CONTEXT)
    max_ctx = _search_largest_context(planner.fits, min(limit, CONTEXT_STEP), limit)
    gpu_layers = sum(assignment.layers)
    return OffloadPlan(
        n_ctx=n_ctx,
        type_k=request.type_k,
        type_v=request.type_v,
        n_gpu_layers=gpu_layers,
        tensor_split=tuple(map(float, assignment.layers)) if gpu_layers and len(gpus) > 1 else (),
        placements=assignment.placements,
        reclaimable=assignment.reclaimable,
        max_ctx=max_ctx,
        usable_memory=max(planner.usable_ram, sum(map(planner.compute_budget, gpus))),
        shortage=max(assignment.shortages, key=lambda short: short.missing, default=None),
        shortfall=assignment.shortfall,
        next_step=planner.suggest_option(n_ctx, max_ctx) if assignment.shortages else "",
        notices=planner.build_notices(n_ctx),
    )


def require_fit(plan: OffloadPlan, model_name: str, suggestions: Iterable[tuple[str, int]] = ()) -> None:
    """Raise ModelDoesNotFit, with both figures in GB (10^9 bytes) and a next step, when the plan does not fit.
    suggestions: names and sizes in bytes of other models, to advise when no option makes this one fit."""
    if plan.shortage is None:
        return
    needed, available = plan.shortage.needed / 1e9, plan.shortage.available / 1e9
    digits = 1 if f"{needed:.1f}" != f"{available:.1f}" else 3
    raise ModelDoesNotFit(
        f"{model_name} with a context of {plan.n_ctx:,} tokens needs {needed:.{digits}f} GB of "
        f"{plan.shortage.location}, but only {available:.{digits}f} GB is free",
        plan.next_step or _suggest_other_model(plan, suggestions),
    )


def _suggest_other_model(plan: OffloadPlan, models: Iterable[tuple[str, int]]) -> str:
    # A model certainly fits with twice the size of its weights, for repacked ones, and half a GB.
    fitting = [(size, name) for name, size in models if 2 * size + 512 * MIB <= plan.usable_memory]
    size, name = max(fitting, default=(0, ""))
    other_model = f"{name} ({size / 1e9:.1f} GB), which fits" if name else "a smaller model"
    return f"Choose a smaller quantization of it, or {other_model}"


@dataclass(frozen=True, slots=True)
class _LayerAssignment:
    """layers: of each GPU, the output layer counted as one."""

    layers: tuple[int, ...]
    placements: tuple[Placement, ...]
    reclaimable: int
    shortages: tuple[Shortage, ...]

    @property
    def shortfall(self) -> int:
        return sum(short.missing for short in self.shortages)


@dataclass(frozen=True, slots=True)
class _Planner:
    """A planning problem; its methods are pure functions of the five values."""

    header: GgufHeader
    hardware: Hardware
    request: OffloadRequest
    gpus: tuple[DeviceInfo, ...]
    weights: WeightSizes

    @property
    def layer_count(self) -> int:
        return self.header.block_count + 1

    @property
    def usable_ram(self) -> int:
        return max(0, self.hardware.ram_available - _RAM_RESERVE_BYTES)

    def compute_budget(self, gpu: DeviceInfo) -> int:
        """Return the bytes of a GPU that may be planned with."""
        free = max(0, gpu.memory_free - max(_MIN_GPU_MARGIN_BYTES, gpu.memory_total // 20))
        return min(free, self.usable_ram) if gpu.kind is DeviceKind.INTEGRATED else free

    def assign_layers(self, n_ctx: int) -> _LayerAssignment:
        """Return the assignment with most layers on GPUs that fits, else the one that lacks least."""
        requested, every_layer = self.request.n_gpu_layers, self.layer_count
        if not self.gpus:
            return self.build_assignment(n_ctx, ())
        if requested == "auto":
            counts = [every_layer, sum(self.fill_gpus(n_ctx, self.header.block_count)), 0]
        else:
            counts = [every_layer if requested == "all" or requested < 0 else min(requested, every_layer)]
        assignments = [self.build_assignment(n_ctx, self.split_layers(n_ctx, count)) for count in counts]
        return min(assignments, key=lambda assignment: assignment.shortfall)

    def split_layers(self, n_ctx: int, count: int) -> tuple[int, ...]:
        """Split count layers over the GPUs: in proportion to their memory where that fits, else as they fill up."""
        room = [self.compute_budget(gpu) for gpu in self.gpus]
        if len(self.gpus) > 1 and sum(room) > 0:
            bounds = [round(count * total / sum(room)) for total in accumulate(room, initial=0)]
            proportional = tuple(upper - lower for lower, upper in pairwise(bounds))
            placements = self.place_on_gpus(n_ctx, proportional)
            if all(placement.total <= space for placement, space in zip(placements, room, strict=True)):
                return proportional
        filled = self.fill_gpus(n_ctx, count)
        return (filled[0] + count - sum(filled), *filled[1:])

    def fill_gpus(self, n_ctx: int, count: int) -> tuple[int, ...]:
        """Assign at most count layers, as many as fit, the last of the model to the last GPU."""
        layers, remaining, last = [0] * len(self.gpus), count, self.layer_count
        repeating = (weight + kv for weight, kv in zip(self.weights.layers, self.kv_sizes(n_ctx), strict=True))
        costs = (*repeating, self.output_gpu_bytes)
        for index in reversed(range(len(self.gpus))):
            budget = self.compute_budget(self.gpus[index])
            budget -= self.estimate_compute_buffers(n_ctx, count, has_output=last == self.layer_count and count > 0)
            while remaining and costs[last - 1] <= budget:
                budget -= costs[last - 1]
                layers[index], last, remaining = layers[index] + 1, last - 1, remaining - 1
        return tuple(layers)

    @property
    def output_gpu_bytes(self) -> int:
        # A GPU with its own memory needs a copy of a tied embedding; an integrated one maps the same pages.
        has_own_memory = any(gpu.kind is not DeviceKind.INTEGRATED for gpu in self.gpus)
        return self.weights.output + (self.weights.tied_embedding if has_own_memory else 0)

    def kv_sizes(self, n_ctx: int) -> tuple[int, ...]:
        type_k, type_v = parse_cache_type(self.request.type_k), parse_cache_type(self.request.type_v)
        return memory.estimate_kv_cache(self.header, n_ctx, type_k, type_v)

    def estimate_compute_buffers(self, n_ctx: int, count: int, *, has_output: bool) -> int:
        """Return the bytes of a GPU's compute buffers in a model that has count layers on GPUs."""
        n_ubatch, is_partial = self.request.n_ubatch, count < self.layer_count
        estimate = memory.estimate_reserved_compute if has_output or is_partial else memory.estimate_layer_compute
        matrix_copy = self.weights.largest_matrix if is_partial else 0
        # Several GPUs work as a pipeline, which keeps four copies of its inputs (GGML_SCHED_MAX_COPIES).
        extra_copies = 3 if len(self.gpus) > 1 else 0
        inputs = memory.estimate_embedding_compute(self.header, n_ctx, n_ubatch)
        return estimate(self.header, n_ctx, n_ubatch) + matrix_copy + extra_copies * inputs

    def place_on_gpus(self, n_ctx: int, layers: tuple[int, ...]) -> tuple[Placement, ...]:
        kv_sizes, weights = (*self.kv_sizes(n_ctx), 0), (*self.weights.layers, self.output_gpu_bytes)
        count, placements = sum(layers), []
        bounds = accumulate(layers, initial=self.layer_count - count)
        for gpu, (first, end) in zip(self.gpus, pairwise(bounds), strict=True):
            has_output = end == self.layer_count
            compute = self.estimate_compute_buffers(n_ctx, count, has_output=has_output) if end > first else 0
            placements.append(Placement(gpu.name, sum(weights[first:end]), sum(kv_sizes[first:end]), compute))
        return tuple(placements)

    def place_on_cpu(self, n_ctx: int, count: int) -> tuple[Placement, int]:
        """Return the CPU's part with count layers on GPUs, and the reclaimable bytes of its weights."""
        first = self.layer_count - count
        layers, n_ubatch = min(first, self.header.block_count), self.request.n_ubatch
        reclaimable = sum(self.weights.layers_repacked[:layers])
        weight_bytes = self.weights.input + sum(self.weights.layers[:layers])
        if first == self.layer_count:
            weight_bytes += self.weights.output
            reclaimable += self.weights.output_repacked
        estimate = memory.estimate_layer_compute if first else memory.estimate_embedding_compute
        compute = estimate(self.header, n_ctx, n_ubatch) + (_GPU_RUNTIME_BYTES if count else 0)
        compute += memory.estimate_process_memory(self.header, self.request.n_threads)
        return Placement(CPU, weight_bytes + reclaimable, sum(self.kv_sizes(n_ctx)[:layers]), compute), reclaimable

    def build_assignment(self, n_ctx: int, layers: tuple[int, ...]) -> _LayerAssignment:
        gpu_placements = self.place_on_gpus(n_ctx, layers)
        cpu, reclaimable = self.place_on_cpu(n_ctx, sum(layers))
        shares_ram = any(gpu.kind is DeviceKind.INTEGRATED for gpu in self.gpus)  # then all of them do
        ram_needed = cpu.total - reclaimable + (sum(each.total for each in gpu_placements) if shares_ram else 0)
        shortages = [
            Shortage(f"memory on {gpu.name}", placement.total, self.compute_budget(gpu))
            for gpu, placement in zip(self.gpus, gpu_placements, strict=True)
            if placement.total > self.compute_budget(gpu)
        ]
        if ram_needed > self.usable_ram:
            # Shared memory must not be reported twice.
            shortages = [*([] if shares_ram else shortages), Shortage("RAM", ram_needed, self.usable_ram)]
        used_placements = tuple(placement for placement in gpu_placements if placement.total)
        return _LayerAssignment(layers, (cpu, *used_placements), reclaimable, tuple(shortages))

    def fits(self, n_ctx: int) -> bool:
        return not self.assign_layers(n_ctx).shortages

    def fits_on_gpus(self, n_ctx: int) -> bool:
        best = self.assign_layers(n_ctx)
        return not best.shortages and sum(best.layers) == self.layer_count

    @property
    def default_context(self) -> int:
        return min(self.header.context_length or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)

    def select_context(self) -> int:
        limit, smallest, n_ctx = self.default_context, min(self.default_context, _MIN_CONTEXT), 0
        if self.gpus and self.request.n_gpu_layers == "auto":
            n_ctx = _search_largest_context(self.fits_on_gpus, min(limit, _MIN_FULL_OFFLOAD_CONTEXT), limit)
        return n_ctx or _search_largest_context(self.fits, smallest, limit) or smallest

    def suggest_option(self, n_ctx: int, max_ctx: int) -> str:
        smaller_context = f"Ask for a smaller context with --ctx-size {max_ctx}" if max_ctx else ""
        if max_ctx >= _MIN_CONTEXT:
            return smaller_context
        options: dict[str, dict[str, Any]] = {"Let phichat choose with --n-gpu-layers auto": {"n_gpu_layers": "auto"}}
        for kind in ("q8_0", "q4_0"):
            advice = f"Make the KV cache smaller with --cache-type-k {kind} --cache-type-v {kind}"
            options[advice] = {"type_k": kind, "type_v": kind}
        for advice, values in options.items():
            if replace(self, request=replace(self.request, **values)).fits(n_ctx):
                return advice
        return smaller_context

    def build_notices(self, n_ctx: int) -> tuple[str, ...]:
        lines = []
        if (training_context := self.header.context_length) and n_ctx > training_context:
            lines.append(
                f"The context of {n_ctx:,} tokens is longer than the {training_context:,} that the model was trained "
                "for; answers may degrade beyond that."
            )
        if self.request.n_ctx is None and n_ctx < self.default_context:
            lines.append(f"Context reduced from {self.default_context:,} to {n_ctx:,} tokens to fit in memory.")
        if not self.gpus and self.request.n_gpu_layers not in ("auto", 0):
            lines.append("This machine has no usable GPU, so all layers stay on the CPU.")
        return tuple(lines)


def _search_largest_context(fits: Callable[[int], bool], smallest: int, limit: int) -> int:
    """Return the largest context from smallest to limit that fits: limit or a multiple of 256; 0 when none does."""
    if fits(limit):
        return limit
    if not fits(smallest):
        return 0
    low, high = smallest // CONTEXT_STEP, -(-limit // CONTEXT_STEP)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * CONTEXT_STEP) else (low, middle)
    return max(low * CONTEXT_STEP, smallest)
