"""Memory that a model takes, computed from its header: weights, KV cache and compute buffers, in bytes.

Calibrated against the buffer sizes that llama.cpp logs and against the memory of the process, flash attention on.
tests/engine/planner/test_offload_plan.py has measured and computed figures.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from phichat.errors import UsageError
from phichat.gguf.header import GgufHeader, TensorInfo
from phichat.gguf.types import GGML_TYPES, GgmlType, find_type

MIB = 1 << 20
CONTEXT_STEP = 256
"""llama.cpp rounds the cells of a KV cache up to a multiple of this."""

_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_LAYER_PATTERN = re.compile(r"blk\.(\d{1,4})\.")
_INPUT_TENSOR_PREFIXES = ("token_embd", "per_layer_token_embd", "token_types", "position_embd")


@dataclass(frozen=True, slots=True)
class WeightSizes:
    """Bytes of weights, in the groups that llama.cpp places on one device.

    input: stays on the CPU. layers: of each repeating layer. output: the rest, the output layer.
    tied_embedding: of the input embedding when it serves as output matrix too, so that a GPU needs a copy; else 0.
    layers_repacked, output_repacked: the part that the CPU backend copies into another block order.
    largest_matrix: copied to a GPU for the prefill when its layer is in RAM.
    """

    input: int
    layers: tuple[int, ...]
    output: int
    tied_embedding: int
    layers_repacked: tuple[int, ...]
    output_repacked: int
    largest_matrix: int


def group_weights(header: GgufHeader, repack_types: frozenset[str] = frozenset()) -> WeightSizes:
    """Sum up the tensors by layer. repack_types: ggml names of the types that the CPU backend repacks."""
    layers, layers_repacked = [0] * header.block_count, [0] * header.block_count
    inputs = outputs = outputs_repacked = largest = embedding = 0
    is_tied = True
    for tensor in header.tensors:
        repacked_bytes = tensor.size_bytes if _is_repackable(tensor, repack_types) else 0
        if tensor.name.startswith(_INPUT_TENSOR_PREFIXES):
            inputs += tensor.size_bytes
            if tensor.name == "token_embd.weight":
                embedding = tensor.size_bytes
            continue
        largest = max(largest, tensor.size_bytes)
        if (match := _LAYER_PATTERN.match(tensor.name)) and int(match[1]) < len(layers):
            layers[int(match[1])] += tensor.size_bytes
            layers_repacked[int(match[1])] += repacked_bytes
        else:
            outputs += tensor.size_bytes
            outputs_repacked += repacked_bytes
            is_tied = is_tied and tensor.name != "output.weight"
    tied_bytes = embedding if is_tied else 0
    largest = max(largest, tied_bytes)
    return WeightSizes(inputs, tuple(layers), outputs, tied_bytes, tuple(layers_repacked), outputs_repacked, largest)


def find_repack_types(machine: str) -> frozenset[str]:
    """Return the types whose weights the CPU backend holds twice, mapped and repacked.

    machine: as in platform.machine(); x86 is taken to have AVX2 and ARM the dot product (repack.cpp,
    ggml_repack_get_optimal_repack_type).
    """
    common = frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"})
    arm = common | {"Q5_K", "Q6_K", "Q8_0"}
    return {"x86_64": common, "amd64": common, "arm64": arm, "aarch64": arm}.get(machine.lower(), frozenset())


def _is_repackable(tensor: TensorInfo, repack_types: frozenset[str]) -> bool:
    kind = GGML_TYPES.get(tensor.ggml_type)
    return kind is not None and kind.name in repack_types and len(tensor.shape) >= 2 and tensor.shape[1] % 8 == 0


def compute_bytes_per_token(header: GgufHeader) -> int:
    """Return the bytes of weights that generating one token reads, which bounds the speed by the memory bandwidth.

    Of the token embedding only a row is read, unless it is the output matrix too; of the experts of a mixture only
    the `expert_used_count` active ones.
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


def parse_cache_type(name: str) -> GgmlType:
    """Return the type of a KV cache, spelled as for llama.cpp's --cache-type-k. Raises UsageError."""
    if name.lower() not in _CACHE_TYPES:
        raise UsageError(f"Unknown KV cache type {name!r}", f"Use one of {', '.join(_CACHE_TYPES)}")
    return find_type(name)


def estimate_kv_cache(header: GgufHeader, n_ctx: int, type_k: GgmlType, type_v: GgmlType) -> tuple[int, ...]:
    """Return the bytes of each layer's KV cache: cells x (keys + values of all its heads), and recurrent state.

    Sliding-window layers count in full, as with swa_full. A layer without attention has a state of fixed size
    (n_embd_r and n_embd_s of llama-hparams.cpp, at 4 bytes) instead.
    """
    cells = pad_context(n_ctx)
    # Multi-head latent attention keeps values inside the keys.
    is_mla = header.get_int("{arch}.attention.key_length_mla") > 0
    keys = max(header.key_length, header.get_int("{arch}.attention.key_length_swa"))
    values = 0 if is_mla else max(header.value_length, header.get_int("{arch}.attention.value_length_swa"))
    interval = header.get_int("{arch}.full_attention_interval")
    recurrent_bytes = estimate_recurrent_state(header)
    is_hybrid = header.architecture == "falcon-h1"
    sizes = []
    for layer, heads in enumerate(header.head_count_kv):
        is_recurrent = heads == 0 or (interval > 0 and (layer + 1) % interval != 0)
        cache = 0 if is_recurrent else cells * (type_k.row_bytes(keys * heads) + type_v.row_bytes(values * heads))
        sizes.append(cache + (recurrent_bytes if is_recurrent or is_hybrid else 0))
    return tuple(sizes) + (recurrent_bytes,) * (header.block_count - len(sizes))


def estimate_recurrent_state(header: GgufHeader) -> int:
    """Return the bytes of a layer's state of fixed size, of each sequence; 0 for attention alone."""
    width = header.embedding_length
    if head := header.get_int("{arch}.wkv.head_size"):
        return 4 * width * (header.get_int("{arch}.token_shift_count", 2) + head)
    convolution = max(0, header.get_int("{arch}.shortconv.l_cache") - 1) * width
    inner, size = header.get_int("{arch}.ssm.inner_size"), header.get_int("{arch}.ssm.state_size")
    convolved = inner + 2 * header.get_int("{arch}.ssm.group_count") * size
    return 4 * (convolution + max(0, header.get_int("{arch}.ssm.conv_kernel") - 1) * convolved + inner * size)


def pad_context(n_ctx: int) -> int:
    """Return the cells of a KV cache for this many tokens."""
    return -(-n_ctx // CONTEXT_STEP) * CONTEXT_STEP


def estimate_attention_mask(n_ctx: int, n_ubatch: int) -> int:
    """Return the bytes of the attention mask of one batch, f16."""
    return 2 * pad_context(n_ctx) * n_ubatch


def estimate_layer_compute(header: GgufHeader, n_ctx: int, n_ubatch: int) -> int:
    """Return the bytes that evaluating one layer touches: f32 activations of a batch, and the mask.

    Four times the width of the residual stream or of the attention heads, three times that of the feed-forward
    network (gate, up and their product).
    """
    attention = max(header.embedding_length, header.head_count * header.key_length)
    experts = header.get_int("{arch}.expert_feed_forward_length") * max(1, header.expert_used_count)
    feed_forward = max(header.feed_forward_length, experts)
    return 4 * n_ubatch * (4 * attention + 3 * feed_forward) + estimate_attention_mask(n_ctx, n_ubatch)


def estimate_reserved_compute(header: GgufHeader, n_ctx: int, n_ubatch: int) -> int:
    """Return the bytes of the compute buffer that llama.cpp logs for the backend with the output layer.

    Logits are reserved for every token of a batch. A GPU allocates them all; on a CPU the pages are never touched,
    since only the last token asks for logits.
    """
    logits = 4 * n_ubatch * (header.vocab_size + 4 * header.embedding_length)
    return max(logits, estimate_layer_compute(header, n_ctx, n_ubatch))


def estimate_embedding_compute(header: GgufHeader, n_ctx: int, n_ubatch: int) -> int:
    """Return the bytes that a CPU needs when all layers are on GPUs: the embedded batch, and the mask."""
    return 8 * n_ubatch * header.embedding_length + estimate_attention_mask(n_ctx, n_ubatch)


def estimate_process_memory(header: GgufHeader, n_threads: int) -> int:
    """Return the bytes of an engine process besides its buffers: interpreter and libraries, vocabulary, threads."""
    return 43 * MIB + 160 * header.vocab_size + MIB // 4 * max(1, n_threads)
