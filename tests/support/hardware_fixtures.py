"""Models and machines described rather than present: headers of the phi family's shapes, and cards."""

from __future__ import annotations

from typing import Any

from phichat.engine.ipc.protocol import DeviceInfo
from phichat.engine.planner.hardware import DeviceKind, Hardware
from phichat.gguf.header import GgufHeader, TensorInfo
from phichat.gguf.types import GGML_TYPES, find_type

GIB = 1 << 30


def header_of(metadata: dict[str, Any], vocab: int, tensors: list[tuple[str, str, tuple[int, ...]]]) -> GgufHeader:
    numbers = {kind.name: number for number, kind in GGML_TYPES.items()}
    infos, offset = [], 0
    for name, kind, shape in tensors:
        size = find_type(kind).row_bytes(shape[0])
        for extent in shape[1:]:
            size *= extent
        infos.append(TensorInfo(name, shape, numbers[kind], offset, size))
        offset += size
    return GgufHeader(3, metadata, {"tokenizer.ggml.tokens": vocab}, tuple(infos), 0, 32, offset)


def phi(
    layers: int, width: int, ff: int, heads: int, kv: int, vocab: int, trained: int, *, tied: bool = False
) -> GgufHeader:
    """A phi3 architecture in the mixture of types that Q4_K_M gives."""
    fused = width + 2 * kv * (width // heads)
    tensors: list[tuple[str, str, tuple[int, ...]]] = [
        ("token_embd.weight", "Q6_K" if tied else "Q4_K", (width, vocab))
    ]
    for layer in range(layers):
        more = "Q6_K" if layer % 2 else "Q4_K"
        tensors += [
            (f"blk.{layer}.attn_norm.weight", "F32", (width,)),
            (f"blk.{layer}.attn_qkv.weight", "Q5_K" if layers == 40 else "Q4_K", (width, fused)),
            (f"blk.{layer}.attn_output.weight", "Q4_K", (width, width)),
            (f"blk.{layer}.ffn_norm.weight", "F32", (width,)),
            (f"blk.{layer}.ffn_up.weight", "Q4_K", (width, 2 * ff)),
            (f"blk.{layer}.ffn_down.weight", more, (ff, width)),
        ]
    tensors.append(("output_norm.weight", "F32", (width,)))
    if not tied:
        tensors.append(("output.weight", "Q6_K", (width, vocab)))
    metadata = {
        "general.architecture": "phi3",
        "general.file_type": 15,
        "phi3.block_count": layers,
        "phi3.context_length": trained,
        "phi3.embedding_length": width,
        "phi3.feed_forward_length": ff,
        "phi3.attention.head_count": heads,
        "phi3.attention.head_count_kv": kv,
    }
    return header_of(metadata, vocab, tensors)


PHI4 = phi(40, 5120, 17920, 40, 10, 100352, 16384)
PHI4_MINI = phi(32, 3072, 8192, 24, 8, 200064, 131072, tied=True)
PHI3_MINI = phi(32, 3072, 8192, 32, 32, 32064, 4096)
PHI4_MINI_LOGGED = phi(32, 3072, 8192, 24, 8, 100352, 131072)


def card(gigabytes: float, name: str = "CUDA0", used: float = 0.3) -> DeviceInfo:
    return DeviceInfo(name, "NVIDIA", DeviceKind.GPU, int(gigabytes * GIB), int((gigabytes - used) * GIB))


def machine(*devices: DeviceInfo, ram: float = 32, free: float = 26) -> Hardware:
    return Hardware(8, int(ram * GIB), int(free * GIB), devices, offload_supported=bool(devices))
