"""Where the layers of a model go, and whether they fit.

llama.cpp gives whole repeating layers, each with its share of the KV cache, to the devices in order, the
output layer after the last; the token embedding stays on the CPU. This planner fills the devices from
the end of the model, so that what does not fit is the beginning, and stays on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from phichat.config import GpuLayers
from phichat.engine import footprint
from phichat.engine.footprint import CONTEXT_STEP, MIB
from phichat.engine.hardware import Device, DeviceKind, Hardware
from phichat.errors import ModelDoesNotFit
from phichat.gguf_header import GgufHeader

CPU = "CPU"

_USUAL_CONTEXT = 8192
_FULL_OFFLOAD_CONTEXT = 4096
_SMALLEST_CONTEXT = 2048
_UNKNOWN_TRAINING_CONTEXT = 1 << 17
_RAM_RESERVE = 256 * MIB
_GPU_MARGIN = 512 * MIB
_GPU_RUNTIME = 256 * MIB
_SMALLER_CACHES = ("q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class OffloadRequest:
    """What the user asked for.

    n_ctx: tokens, None to choose. n_gpu_layers: as llama.cpp counts, the output layer is one more than the
    repeating ones. type_k, type_v: ggml types of the KV cache. n_ubatch: tokens evaluated at once.
    repack: ggml types that the CPU backend repacks, from `footprint.repacked_types`; empty when the engine
    loads without extra buffer types.
    """

    n_ctx: int | None = None
    n_gpu_layers: GpuLayers = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    n_ubatch: int = 512
    n_threads: int = 1
    repack: frozenset[str] = frozenset()


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

    place: str
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
    room: int
    shortage: Shortage | None
    short_by: int
    remedy: str
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


def plan(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> OffloadPlan:
    """The best way to load this model here; one that does not fit is described too.

    A context that was asked for is kept. Otherwise it is the training length, at most 8,192 tokens, and less
    (4,096 and more) when that lets every layer onto the GPUs, or (2,048 and more) when nothing else fits.
    Raises UsageError for an unknown KV cache type.
    """
    machine = _Machine(
        header, hardware, request, offload_devices(hardware), footprint.weights(header, _repack(hardware, request))
    )
    n_ctx = request.n_ctx or machine.chosen_context()
    layout = machine.best(n_ctx)
    max_ctx = machine.largest_context(n_ctx)
    used = sum(layout.layers)
    return OffloadPlan(
        n_ctx=n_ctx,
        type_k=request.type_k,
        type_v=request.type_v,
        n_gpu_layers=used,
        tensor_split=tuple(float(count) for count in layout.layers) if used and len(layout.layers) > 1 else (),
        placements=layout.placements,
        reclaimable=layout.reclaimable,
        max_ctx=max_ctx,
        room=max(machine.ram, sum(map(machine.room, machine.cards))),
        shortage=max(layout.shortages, key=lambda short: short.needed - short.available, default=None),
        short_by=sum(short.needed - short.available for short in layout.shortages),
        remedy=machine.remedy(n_ctx, max_ctx) if layout.shortages else "",
        notices=machine.notices(n_ctx),
    )


def require_fit(plan: OffloadPlan, model_name: str, smaller: Iterable[tuple[str, int]] = ()) -> None:
    """Raises ModelDoesNotFit, with both figures in GB (10^9 bytes) and the nearest choice, when the plan does not fit.

    smaller: names and sizes in bytes of other models, to advise when no option makes this one fit.
    """
    short = plan.shortage
    if short is not None:
        needed, available = f"{short.needed / 1e9:.1f}", f"{short.available / 1e9:.1f}"
        if needed == available:
            needed, available = f"{short.needed / 1e9:.3f}", f"{short.available / 1e9:.3f}"
        raise ModelDoesNotFit(
            f"{model_name} with a context of {plan.n_ctx:,} tokens needs {needed} GB of {short.place} "
            f"and {available} GB are free",
            plan.remedy or _another(plan, smaller),
        )


def _another(plan: OffloadPlan, models: Iterable[tuple[str, int]]) -> str:
    """The largest of the models that certainly fits: what its weights take repacked, and half a GB beside them."""
    fitting = [(size, name) for name, size in models if 2 * size + 512 * MIB <= plan.room]
    if not fitting:
        return "choose a smaller quantization of it, or a smaller model"
    size, name = max(fitting)
    return f"choose a smaller quantization of it, or {name} ({size / 1e9:.1f} GB), which fits"


def bytes_read_per_token(header: GgufHeader) -> int:
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


def offload_devices(hardware: Hardware) -> tuple[Device, ...]:
    """The devices that llama.cpp offloads to: integrated ones only where there is no card."""
    if not hardware.offload_supported:
        return ()
    for kind in (DeviceKind.GPU, DeviceKind.INTEGRATED):
        found = tuple(device for device in hardware.devices if device.kind is kind)
        if found:
            return found
    return ()


def _repack(hardware: Hardware, request: OffloadRequest) -> frozenset[str]:
    # With a GPU backend, llama.cpp prefers its pinned host buffers to the repacking ones.
    return frozenset() if offload_devices(hardware) else request.repack


@dataclass(frozen=True, slots=True)
class _Layout:
    """layers: how many each card has, the output layer counted as one."""

    layers: tuple[int, ...]
    placements: tuple[Placement, ...]
    reclaimable: int
    shortages: tuple[Shortage, ...]


@dataclass(frozen=True, slots=True)
class _Machine:
    """One planning problem; all of it is functions of the five values."""

    header: GgufHeader
    hardware: Hardware
    request: OffloadRequest
    cards: tuple[Device, ...]
    weights: footprint.Weights

    @property
    def all_layers(self) -> int:
        return self.header.block_count + 1

    @property
    def ram(self) -> int:
        return max(0, self.hardware.ram_available - _RAM_RESERVE)

    def room(self, card: Device) -> int:
        """Bytes of a card that may be planned with."""
        free = max(0, card.memory_free - max(_GPU_MARGIN, card.memory_total // 20))
        return min(free, self.ram) if card.kind is DeviceKind.INTEGRATED else free

    def best(self, n_ctx: int) -> _Layout:
        """The layout with most layers on the cards that fits, else the one that lacks least."""
        wanted = self.request.n_gpu_layers
        if not self.cards:
            return self.layout(n_ctx, (0,) * len(self.cards))
        if wanted != "auto":
            count = self.all_layers if wanted == "all" or wanted < 0 else min(wanted, self.all_layers)
            return self.layout(n_ctx, self.split(n_ctx, count))
        counts = [self.all_layers, sum(self.filled(n_ctx, self.header.block_count)), 0]
        layouts = [self.layout(n_ctx, self.split(n_ctx, count)) for count in counts]
        fitting = [layout for layout in layouts if not layout.shortages]
        lacking = min(layouts, key=lambda layout: sum(short.needed - short.available for short in layout.shortages))
        return fitting[0] if fitting else lacking

    def split(self, n_ctx: int, count: int) -> tuple[int, ...]:
        """count layers over the cards: in proportion to their room where that fits, else as they fill up."""
        room = [self.room(card) for card in self.cards]
        if len(self.cards) > 1 and sum(room) > 0:
            bounds = [round(count * sum(room[: index + 1]) / sum(room)) for index in range(len(room))]
            even = tuple(upper - lower for lower, upper in zip([0, *bounds], bounds, strict=False))
            if all(need.total <= space for need, space in zip(self.on_cards(n_ctx, even), room, strict=True)):
                return even
        filled = self.filled(n_ctx, count)
        return (filled[0] + count - sum(filled), *filled[1:])

    def filled(self, n_ctx: int, count: int) -> tuple[int, ...]:
        """At most count layers, as many as fit, the last of the model on the last card."""
        layers, left = [0] * len(self.cards), count
        costs = self.costs(n_ctx)
        last = self.all_layers
        for index in reversed(range(len(self.cards))):
            room = self.room(self.cards[index])
            room -= self.overhead(n_ctx, count, has_output=last == self.all_layers and count > 0)
            while left and costs[last - 1] <= room:
                room -= costs[last - 1]
                layers[index], last, left = layers[index] + 1, last - 1, left - 1
        return tuple(layers)

    def costs(self, n_ctx: int) -> tuple[int, ...]:
        """Weights and KV cache of each layer on a card, the output layer last."""
        cache = self.cache(n_ctx)
        layers = (weight + kv for weight, kv in zip(self.weights.layers, cache, strict=True))
        return (*layers, self.output_on_card)

    @property
    def output_on_card(self) -> int:
        # A card with its own memory needs a copy of a tied embedding; an integrated one maps the same pages.
        integrated = all(card.kind is DeviceKind.INTEGRATED for card in self.cards)
        return self.weights.output + (0 if integrated else self.weights.tied)

    def cache(self, n_ctx: int) -> tuple[int, ...]:
        kinds = footprint.cache_type(self.request.type_k), footprint.cache_type(self.request.type_v)
        return footprint.kv_cache(self.header, n_ctx, *kinds)

    def overhead(self, n_ctx: int, count: int, *, has_output: bool) -> int:
        """Compute buffers of a card in a model that has count layers on cards."""
        n_ubatch, partial = self.request.n_ubatch, count < self.all_layers
        size: Callable[[GgufHeader, int, int], int] = (
            footprint.reserved_compute if has_output or partial else footprint.layer_compute
        )
        borrowed = self.weights.largest if partial else 0
        # Several cards work as a pipeline, which keeps four copies of its inputs.
        copies = 3 * footprint.embedding_compute(self.header, n_ctx, n_ubatch) if len(self.cards) > 1 else 0
        return size(self.header, n_ctx, n_ubatch) + borrowed + copies

    def on_cards(self, n_ctx: int, layers: tuple[int, ...]) -> tuple[Placement, ...]:
        cache, weights = (*self.cache(n_ctx), 0), (*self.weights.layers, self.output_on_card)
        count, placements = sum(layers), []
        first = self.all_layers - count
        for card, held in zip(self.cards, layers, strict=True):
            end = first + held
            compute = self.overhead(n_ctx, count, has_output=end == self.all_layers) if held else 0
            placements.append(Placement(card.name, sum(weights[first:end]), sum(cache[first:end]), compute))
            first = end
        return tuple(placements)

    def on_cpu(self, n_ctx: int, count: int) -> tuple[Placement, int]:
        """What is left for the CPU with count layers on cards, and how much of its weights is reclaimable."""
        first = self.all_layers - count
        layers, n_ubatch = min(first, self.header.block_count), self.request.n_ubatch
        reclaimable = sum(self.weights.layers_repacked[:layers])
        held = self.weights.input + sum(self.weights.layers[:layers])
        if first == self.all_layers:
            held += self.weights.output
            reclaimable += self.weights.output_repacked
        needs = footprint.layer_compute if first else footprint.embedding_compute
        compute = needs(self.header, n_ctx, n_ubatch) + footprint.process(self.header, self.request.n_threads)
        compute += _GPU_RUNTIME if count else 0
        return Placement(CPU, held + reclaimable, sum(self.cache(n_ctx)[:layers]), compute), reclaimable

    def layout(self, n_ctx: int, layers: tuple[int, ...]) -> _Layout:
        cards = self.on_cards(n_ctx, layers)
        cpu, reclaimable = self.on_cpu(n_ctx, sum(layers))
        ram_needed, shortages = cpu.total - reclaimable, []
        for card, placement in zip(self.cards, cards, strict=True):
            if card.kind is DeviceKind.INTEGRATED:
                ram_needed += placement.total
            if placement.total > self.room(card):
                shortages.append(Shortage(f"memory on {card.name}", placement.total, self.room(card)))
        if ram_needed > self.ram:
            integrated = [card for card in self.cards if card.kind is DeviceKind.INTEGRATED]
            # Shared memory that is missing is missing once.
            shortages = [] if integrated else shortages
            shortages.append(Shortage("RAM", ram_needed, self.ram))
        used = tuple(placement for placement in cards if placement.total)
        return _Layout(layers, (cpu, *used), reclaimable, tuple(shortages))

    def fits(self, n_ctx: int) -> bool:
        return not self.best(n_ctx).shortages

    def fits_on_cards(self, n_ctx: int) -> bool:
        best = self.best(n_ctx)
        return not best.shortages and sum(best.layers) == self.all_layers

    def chosen_context(self) -> int:
        usual = min(self.header.context_length or _USUAL_CONTEXT, _USUAL_CONTEXT)
        if self.cards and self.request.n_gpu_layers == "auto":
            full = _largest(self.fits_on_cards, min(usual, _FULL_OFFLOAD_CONTEXT), usual)
            if full:
                return full
        smallest = min(usual, _SMALLEST_CONTEXT)
        return _largest(self.fits, smallest, usual) or smallest

    def largest_context(self, n_ctx: int) -> int:
        limit = max(n_ctx, self.header.context_length or _UNKNOWN_TRAINING_CONTEXT)
        return _largest(self.fits, min(limit, CONTEXT_STEP), limit)

    def remedy(self, n_ctx: int, max_ctx: int) -> str:
        smaller = f"ask for a smaller context with --ctx-size {max_ctx}"
        if max_ctx >= _SMALLEST_CONTEXT:
            return smaller
        if self.request.n_gpu_layers != "auto" and self.cards:
            request = replace(self.request, n_gpu_layers="auto")
            if replace(self, request=request).fits(n_ctx):
                return "let phichat choose with --n-gpu-layers auto"
        for kind in _SMALLER_CACHES:
            request = replace(self.request, type_k=kind, type_v=kind)
            if replace(self, request=request).fits(n_ctx):
                return f"make the KV cache smaller with --cache-type-k {kind} --cache-type-v {kind}"
        return smaller if max_ctx else ""

    def notices(self, n_ctx: int) -> tuple[str, ...]:
        lines = []
        trained = self.header.context_length
        if trained and n_ctx > trained:
            lines.append(
                f"The context of {n_ctx:,} tokens is longer than the {trained:,} that the model was trained for; "
                "answers may get worse beyond them."
            )
        usual = min(trained or _USUAL_CONTEXT, _USUAL_CONTEXT)
        if self.request.n_ctx is None and n_ctx < usual:
            lines.append(f"The context is {n_ctx:,} rather than {usual:,} tokens to fit into memory.")
        if not self.cards and self.request.n_gpu_layers not in ("auto", 0):
            lines.append("No GPU can be used here, so all layers stay on the CPU.")
        return tuple(lines)


def _largest(fits: Callable[[int], bool], smallest: int, limit: int) -> int:
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
