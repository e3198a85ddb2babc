"""Where the layers of a model go, and whether they fit.

llama.cpp gives whole repeating layers, each with its share of the KV cache, to the devices in order, the
output layer after the last; the token embedding stays on the CPU. This planner fills the devices from
the end of the model, so that what does not fit is the beginning, and stays on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from phichat.config.settings import GpuLayers
from phichat.engine.planner import memory_estimate
from phichat.engine.planner.hardware import Device, DeviceKind, Hardware
from phichat.engine.planner.memory_estimate import CONTEXT_STEP, MIB
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
_SUGGESTED_CACHE_TYPES = ("q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """What the user asked for.

    n_ctx: tokens, None to choose. n_gpu_layers: as llama.cpp counts, the output layer is one more than the
    repeating ones. type_k, type_v: ggml types of the KV cache. n_ubatch: tokens evaluated at once.
    repack: ggml types that the CPU backend repacks, from `memory_estimate.repacked_types`; empty when the engine
    loads without extra buffer types.
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
    """Bytes in one place; device is ggml's name, or CPU."""

    device: str
    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True, slots=True)
class Shortage:
    """The place that lacks most, in bytes; place is a device or RAM."""

    location: str
    needed: int
    available: int


@dataclass(frozen=True, slots=True)
class OffloadPlan:
    """What to load with, and what it takes, in bytes.

    n_gpu_layers: repeating layers on GPUs, and 1 more with the output layer. tensor_split: layers of each
    device, empty with fewer than two. placements: the CPU first. reclaimable: of the CPU's weights, mapped
    pages of which a repacked copy exists, which the system drops when memory gets scarce; resident at first.
    max_ctx: the largest context that fits with what was asked for beside it, 0 when none does.
    room: bytes on the cards, or of RAM where that is more, that any model may be planned with.
    remedy: the option that makes it fit, as a next step; "" when it fits, or when no option does.
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
    def weights(self) -> int:
        return sum(placement.weights for placement in self.placements)

    @property
    def kv_cache(self) -> int:
        return sum(placement.kv_cache for placement in self.placements)

    @property
    def compute(self) -> int:
        return sum(placement.compute for placement in self.placements)

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


def plan_offload(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> OffloadPlan:
    """The best way to load this model here; one that does not fit is described too.

    A context that was asked for is kept. Otherwise it is the training length, at most 8,192 tokens, and less
    (4,096 and more) when that lets every layer onto the GPUs, or (2,048 and more) when nothing else fits.
    Raises UsageError for an unknown KV cache type.
    """
    planner = _Planner(
        header,
        hardware,
        request,
        find_offload_devices(hardware),
        memory_estimate.group_weights(header, _select_repack_types(hardware, request)),
    )
    n_ctx = request.n_ctx or planner.select_context()
    assignment = planner.assignment(n_ctx)
    max_ctx = planner.find_largest_context(n_ctx)
    gpu_layers = sum(assignment.layers)
    return OffloadPlan(
        n_ctx=n_ctx,
        type_k=request.type_k,
        type_v=request.type_v,
        n_gpu_layers=gpu_layers,
        tensor_split=tuple(float(count) for count in assignment.layers)
        if gpu_layers and len(assignment.layers) > 1
        else (),
        placements=assignment.placements,
        reclaimable=assignment.reclaimable,
        max_ctx=max_ctx,
        usable_memory=max(planner.usable_ram, sum(map(planner.budgets, planner.gpus))),
        shortage=max(assignment.shortages, key=lambda short: short.needed - short.available, default=None),
        shortfall=sum(short.needed - short.available for short in assignment.shortages),
        next_step=planner.remedy(n_ctx, max_ctx) if assignment.shortages else "",
        notices=planner.build_notices(n_ctx),
    )


def require_fit(plan: OffloadPlan, model_name: str, suggestions: Iterable[tuple[str, int]] = ()) -> None:
    """Raises ModelDoesNotFit, with both figures in GB (10^9 bytes) and the nearest choice, when the plan does not fit.

    smaller: names and sizes in bytes of other models, to advise when no option makes this one fit.
    """
    shortage = plan.shortage
    if shortage is not None:
        needed, available = f"{shortage.needed / 1e9:.1f}", f"{shortage.available / 1e9:.1f}"
        if needed == available:
            needed, available = f"{shortage.needed / 1e9:.3f}", f"{shortage.available / 1e9:.3f}"
        raise ModelDoesNotFit(
            f"{model_name} with a context of {plan.n_ctx:,} tokens needs {needed} GB of {shortage.location} "
            f"and {available} GB are free",
            plan.next_step or _suggest_other_model(plan, suggestions),
        )


def _suggest_other_model(plan: OffloadPlan, models: Iterable[tuple[str, int]]) -> str:
    """The largest of the models that certainly fits: what its weights take repacked, and half a GB beside them."""
    fitting = [(size, name) for name, size in models if 2 * size + 512 * MIB <= plan.usable_memory]
    if not fitting:
        return "choose a smaller quantization of it, or a smaller model"
    size, name = max(fitting)
    return f"choose a smaller quantization of it, or {name} ({size / 1e9:.1f} GB), which fits"


def compute_bytes_per_token(header: GgufHeader) -> int:
    """Bytes of weights that generating one token reads, which bounds the speed by the memory bandwidth.

    Of the token embedding only a row is read, unless it is the output matrix too; of the experts of a
    mixture only those used.
    """
    tied = all(tensor.name != "output.weight" for tensor in header.tensors)
    total = 0
    for tensor in header.tensors:
        if tensor.name.startswith(("token_embd", "per_layer_token_embd")):
            total += tensor.size_bytes if tied and tensor.name == "token_embd.weight" else 0
        elif "_exps" in tensor.name and header.expert_count:
            total += tensor.size_bytes * min(header.expert_used_count, header.expert_count) // header.expert_count
        else:
            total += tensor.size_bytes
    return total


def find_offload_devices(hardware: Hardware) -> tuple[Device, ...]:
    """The devices that llama.cpp offloads to: integrated ones only where there is no card."""
    if not hardware.offload_supported:
        return ()
    for kind in (DeviceKind.GPU, DeviceKind.INTEGRATED):
        devices = tuple(device for device in hardware.devices if device.kind is kind)
        if devices:
            return devices
    return ()


def _select_repack_types(hardware: Hardware, request: OffloadRequest) -> frozenset[str]:
    # With a GPU backend, llama.cpp prefers its pinned host buffers to the repacking ones.
    return frozenset() if find_offload_devices(hardware) else request.repack_types


@dataclass(frozen=True, slots=True)
class _LayerAssignment:
    """layers: how many each card has, the output layer counted as one."""

    layers: tuple[int, ...]
    placements: tuple[Placement, ...]
    reclaimable: int
    shortages: tuple[Shortage, ...]


@dataclass(frozen=True, slots=True)
class _Planner:
    """One planning problem; all of it is functions of the five values."""

    header: GgufHeader
    hardware: Hardware
    request: OffloadRequest
    gpus: tuple[Device, ...]
    weights: memory_estimate.WeightSizes

    @property
    def layer_count(self) -> int:
        return self.header.block_count + 1

    @property
    def usable_ram(self) -> int:
        return max(0, self.hardware.ram_available - _RAM_RESERVE_BYTES)

    def budgets(self, gpu: Device) -> int:
        """Bytes of a card that may be planned with."""
        free = max(0, gpu.memory_free - max(_MIN_GPU_MARGIN_BYTES, gpu.memory_total // 20))
        return min(free, self.usable_ram) if gpu.kind is DeviceKind.INTEGRATED else free

    def assignment(self, n_ctx: int) -> _LayerAssignment:
        """The layout with most layers on the cards that fits, else the one that lacks least."""
        requested_layers = self.request.n_gpu_layers
        if not self.gpus:
            return self.build_assignment(n_ctx, (0,) * len(self.gpus))
        if requested_layers != "auto":
            count = (
                self.layer_count
                if requested_layers == "all" or requested_layers < 0
                else min(requested_layers, self.layer_count)
            )
            return self.build_assignment(n_ctx, self.split_layers(n_ctx, count))
        layer_counts = [self.layer_count, sum(self.greedy(n_ctx, self.header.block_count)), 0]
        assignments = [self.build_assignment(n_ctx, self.split_layers(n_ctx, count)) for count in layer_counts]
        fitting = [layout for layout in assignments if not layout.shortages]
        least_short = min(
            assignments, key=lambda layout: sum(short.needed - short.available for short in layout.shortages)
        )
        return fitting[0] if fitting else least_short

    def split_layers(self, n_ctx: int, count: int) -> tuple[int, ...]:
        """count layers over the cards: in proportion to their room where that fits, else as they fill up."""
        room = [self.budgets(gpu) for gpu in self.gpus]
        if len(self.gpus) > 1 and sum(room) > 0:
            bounds = [round(count * sum(room[: index + 1]) / sum(room)) for index in range(len(room))]
            proportional = tuple(upper - lower for lower, upper in zip([0, *bounds], bounds, strict=False))
            if all(
                need.total <= space for need, space in zip(self.place_on_gpus(n_ctx, proportional), room, strict=True)
            ):
                return proportional
        filled = self.greedy(n_ctx, count)
        return (filled[0] + count - sum(filled), *filled[1:])

    def greedy(self, n_ctx: int, count: int) -> tuple[int, ...]:
        """At most count layers, as many as fit, the last of the model on the last card."""
        layers, remaining = [0] * len(self.gpus), count
        costs = self.compute_layer_costs(n_ctx)
        last = self.layer_count
        for index in reversed(range(len(self.gpus))):
            budget = self.budgets(self.gpus[index])
            budget -= self.estimate_compute_buffers(n_ctx, count, has_output=last == self.layer_count and count > 0)
            while remaining and costs[last - 1] <= budget:
                budget -= costs[last - 1]
                layers[index], last, remaining = layers[index] + 1, last - 1, remaining - 1
        return tuple(layers)

    def compute_layer_costs(self, n_ctx: int) -> tuple[int, ...]:
        """Weights and KV cache of each layer on a card, the output layer last."""
        cache = self.kv_sizes(n_ctx)
        layers = (weight + kv for weight, kv in zip(self.weights.layers, cache, strict=True))
        return (*layers, self.output_gpu_bytes)

    @property
    def output_gpu_bytes(self) -> int:
        # A card with its own memory needs a copy of a tied embedding; an integrated one maps the same pages.
        is_integrated = all(gpu.kind is DeviceKind.INTEGRATED for gpu in self.gpus)
        return self.weights.output + (0 if is_integrated else self.weights.tied_embedding)

    def kv_sizes(self, n_ctx: int) -> tuple[int, ...]:
        cache_types = (
            memory_estimate.parse_cache_type(self.request.type_k),
            memory_estimate.parse_cache_type(self.request.type_v),
        )
        return memory_estimate.estimate_kv_cache(self.header, n_ctx, *cache_types)

    def estimate_compute_buffers(self, n_ctx: int, count: int, *, has_output: bool) -> int:
        """Compute buffers of a card in a model that has count layers on cards."""
        n_ubatch, is_partial = self.request.n_ubatch, count < self.layer_count
        estimator: Callable[[GgufHeader, int, int], int] = (
            memory_estimate.estimate_reserved_compute
            if has_output or is_partial
            else memory_estimate.estimate_layer_compute
        )
        matrix_copy = self.weights.largest_matrix if is_partial else 0
        # Several cards work as a pipeline, which keeps four copies of its inputs.
        pipeline_copies = (
            3 * memory_estimate.estimate_embedding_compute(self.header, n_ctx, n_ubatch) if len(self.gpus) > 1 else 0
        )
        return estimator(self.header, n_ctx, n_ubatch) + matrix_copy + pipeline_copies

    def place_on_gpus(self, n_ctx: int, layers: tuple[int, ...]) -> tuple[Placement, ...]:
        kv_sizes, weights = (*self.kv_sizes(n_ctx), 0), (*self.weights.layers, self.output_gpu_bytes)
        count, placements = sum(layers), []
        first = self.layer_count - count
        for gpu, gpu_layers in zip(self.gpus, layers, strict=True):
            end = first + gpu_layers
            compute = (
                self.estimate_compute_buffers(n_ctx, count, has_output=end == self.layer_count) if gpu_layers else 0
            )
            placements.append(Placement(gpu.name, sum(weights[first:end]), sum(kv_sizes[first:end]), compute))
            first = end
        return tuple(placements)

    def place_on_cpu(self, n_ctx: int, count: int) -> tuple[Placement, int]:
        """What is left for the CPU with count layers on cards, and how much of its weights is reclaimable."""
        first = self.layer_count - count
        layers, n_ubatch = min(first, self.header.block_count), self.request.n_ubatch
        reclaimable = sum(self.weights.layers_repacked[:layers])
        weight_bytes = self.weights.input + sum(self.weights.layers[:layers])
        if first == self.layer_count:
            weight_bytes += self.weights.output
            reclaimable += self.weights.output_repacked
        estimator = memory_estimate.estimate_layer_compute if first else memory_estimate.estimate_embedding_compute
        compute = estimator(self.header, n_ctx, n_ubatch) + memory_estimate.estimate_process_memory(
            self.header, self.request.n_threads
        )
        compute += _GPU_RUNTIME_BYTES if count else 0
        return Placement(CPU, weight_bytes + reclaimable, sum(self.kv_sizes(n_ctx)[:layers]), compute), reclaimable

    def build_assignment(self, n_ctx: int, layers: tuple[int, ...]) -> _LayerAssignment:
        gpu_placements = self.place_on_gpus(n_ctx, layers)
        cpu, reclaimable = self.place_on_cpu(n_ctx, sum(layers))
        ram_needed, shortages = cpu.total - reclaimable, []
        for gpu, placement in zip(self.gpus, gpu_placements, strict=True):
            if gpu.kind is DeviceKind.INTEGRATED:
                ram_needed += placement.total
            if placement.total > self.budgets(gpu):
                shortages.append(Shortage(f"memory on {gpu.name}", placement.total, self.budgets(gpu)))
        if ram_needed > self.usable_ram:
            integrated = [card for card in self.gpus if card.kind is DeviceKind.INTEGRATED]
            # Shared memory that is missing is missing once.
            shortages = [] if integrated else shortages
            shortages.append(Shortage("RAM", ram_needed, self.usable_ram))
        used_placements = tuple(placement for placement in gpu_placements if placement.total)
        return _LayerAssignment(layers, (cpu, *used_placements), reclaimable, tuple(shortages))

    def fits(self, n_ctx: int) -> bool:
        return not self.assignment(n_ctx).shortages

    def fits_on_gpus(self, n_ctx: int) -> bool:
        best = self.assignment(n_ctx)
        return not best.shortages and sum(best.layers) == self.layer_count

    def select_context(self) -> int:
        default_context = min(self.header.context_length or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)
        if self.gpus and self.request.n_gpu_layers == "auto":
            full = _search_largest_context(
                self.fits_on_gpus, min(default_context, _MIN_FULL_OFFLOAD_CONTEXT), default_context
            )
            if full:
                return full
        smallest = min(default_context, _MIN_CONTEXT)
        return _search_largest_context(self.fits, smallest, default_context) or smallest

    def find_largest_context(self, n_ctx: int) -> int:
        limit = max(n_ctx, self.header.context_length or _DEFAULT_TRAINING_CONTEXT)
        return _search_largest_context(self.fits, min(limit, CONTEXT_STEP), limit)

    def remedy(self, n_ctx: int, max_ctx: int) -> str:
        context_step = f"ask for a smaller context with --ctx-size {max_ctx}"
        if max_ctx >= _MIN_CONTEXT:
            return context_step
        if self.request.n_gpu_layers != "auto" and self.gpus:
            request = replace(self.request, n_gpu_layers="auto")
            if replace(self, request=request).fits(n_ctx):
                return "let phichat choose with --n-gpu-layers auto"
        for kind in _SUGGESTED_CACHE_TYPES:
            request = replace(self.request, type_k=kind, type_v=kind)
            if replace(self, request=request).fits(n_ctx):
                return f"make the KV cache smaller with --cache-type-k {kind} --cache-type-v {kind}"
        return context_step if max_ctx else ""

    def build_notices(self, n_ctx: int) -> tuple[str, ...]:
        lines = []
        training_context = self.header.context_length
        if training_context and n_ctx > training_context:
            lines.append(
                f"The context of {n_ctx:,} tokens is longer than the {training_context:,} that the model was trained for; "
                "answers may get worse beyond them."
            )
        default_context = min(training_context or _DEFAULT_CONTEXT, _DEFAULT_CONTEXT)
        if self.request.n_ctx is None and n_ctx < default_context:
            lines.append(f"The context is {n_ctx:,} rather than {default_context:,} tokens to fit into memory.")
        if not self.gpus and self.request.n_gpu_layers not in ("auto", 0):
            lines.append("No GPU can be used here, so all layers stay on the CPU.")
        return tuple(lines)


def _search_largest_context(fits: Callable[[int], bool], smallest: int, limit: int) -> int:
    """The largest context from smallest to limit that fits: limit itself or a multiple of 256; 0 when none does."""
    if fits(limit):
        return limit
    if not fits(smallest):
        return 0
    low, high = smallest // CONTEXT_STEP, -(-limit // CONTEXT_STEP)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle * CONTEXT_STEP) else (low, middle)
    return max(low * CONTEXT_STEP, smallest)
