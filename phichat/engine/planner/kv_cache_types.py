"""Which types the keys and values of the KV cache are kept in, where that is left to choose."""

from __future__ import annotations

from dataclasses import replace

from phichat.engine.planner.hardware import Hardware
from phichat.engine.planner.offload_plan import OffloadPlan, OffloadRequest, find_offload_devices, plan_offload
from phichat.gguf.header import GgufHeader

DEFAULT_CACHE_TYPE = "f16"

_QUANTIZED_CACHE_TYPE = "q8_0"
_QUANT_BLOCK_SIZE = 32
"""Numbers that it packs together; a head must be made of whole blocks."""
_FLASH_ATTENTION_DEVICES = ("CUDA", "ROCm", "MTL")
"""Cards on which llama.cpp computes flash attention over quantized values; it cannot use them otherwise."""


def plan_with_cache_types(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> OffloadPlan:
    """`offload.plan`, with a KV cache of 8 bits a number rather than the requested types where that lets the
    wanted context fit: the one asked for, else the one that suits the model."""
    default_plan = plan_offload(header, hardware, request)
    if not _can_quantize(header, hardware):
        return default_plan
    quantized_plan = plan_offload(
        header, hardware, replace(request, type_k=_QUANTIZED_CACHE_TYPE, type_v=_QUANTIZED_CACHE_TYPE)
    )
    if default_plan.fits and quantized_plan.n_ctx <= default_plan.n_ctx:
        return replace(default_plan, max_ctx=max(default_plan.max_ctx, quantized_plan.max_ctx))
    if not quantized_plan.fits:
        return quantized_plan
    notice = (
        f"The KV cache is kept at 8 bits a number ({_QUANTIZED_CACHE_TYPE}), for at {request.type_k} there is no memory for "
        f"{quantized_plan.n_ctx:,} tokens; --cache-type-k {request.type_k} keeps it at that."
    )
    return replace(quantized_plan, notices=(notice, *quantized_plan.notices))


def _can_quantize(header: GgufHeader, hardware: Hardware) -> bool:
    heads = {header.key_length, header.value_length}
    heads |= {header.get_int("{arch}.attention.key_length_swa"), header.get_int("{arch}.attention.value_length_swa")}
    # Multi-head latent attention has heads of its own kind, and grok's attention is never computed the flash way.
    is_unsupported = header.architecture == "grok" or header.get_int("{arch}.attention.key_length_mla") > 0
    return (
        not is_unsupported
        and all(width % _QUANT_BLOCK_SIZE == 0 for width in heads)
        and all(gpu.name.startswith(_FLASH_ATTENTION_DEVICES) for gpu in find_offload_devices(hardware))
    )
