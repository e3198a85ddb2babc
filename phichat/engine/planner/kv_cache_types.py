"""Choice of the KV cache's types where the user left it open."""

from __future__ import annotations

from dataclasses import replace

from phichat.engine.planner.hardware import Hardware, find_offload_devices
from phichat.engine.planner.offload_plan import OffloadPlan, OffloadRequest, plan_offload
from phichat.gguf.header import GgufHeader

DEFAULT_CACHE_TYPE = "f16"

_QUANTIZED_CACHE_TYPE = "q8_0"
_QUANT_BLOCK_SIZE = 32
"""Numbers per block of q8_0 (QK8_0); a head must consist of whole blocks."""
_FLASH_ATTENTION_DEVICES = ("CUDA", "ROCm", "MTL")
"""Devices on which llama.cpp has flash attention for quantized values; it cannot use them otherwise."""


def plan_with_cache_types(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> OffloadPlan:
    """Return the plan of `plan_offload`, with an 8-bit KV cache instead of the requested types where only that makes
    the context fit: the requested one, else the default for the model."""
    default_plan = plan_offload(header, hardware, request)
    if not _can_quantize(header, hardware):
        return default_plan
    smaller_types = replace(request, type_k=_QUANTIZED_CACHE_TYPE, type_v=_QUANTIZED_CACHE_TYPE)
    quantized_plan = plan_offload(header, hardware, smaller_types)
    if default_plan.fits and quantized_plan.n_ctx <= default_plan.n_ctx:
        return replace(default_plan, max_ctx=max(default_plan.max_ctx, quantized_plan.max_ctx))
    if not quantized_plan.fits:
        return quantized_plan
    notice = (
        f"Using an 8-bit KV cache ({_QUANTIZED_CACHE_TYPE}): {quantized_plan.n_ctx:,} tokens don't fit in memory at "
        f"{request.type_k}. Force {request.type_k} with --cache-type-k {request.type_k}."
    )
    return replace(quantized_plan, notices=(notice, *quantized_plan.notices))


def _can_quantize(header: GgufHeader, hardware: Hardware) -> bool:
    heads = {header.key_length, header.value_length}
    heads |= {header.get_int("{arch}.attention.key_length_swa"), header.get_int("{arch}.attention.value_length_swa")}
    # Multi-head latent attention has heads of another kind, and llama.cpp never uses flash attention for grok.
    is_unsupported = header.architecture == "grok" or header.get_int("{arch}.attention.key_length_mla") > 0
    return (
        not is_unsupported
        and all(width % _QUANT_BLOCK_SIZE == 0 for width in heads)
        and all(gpu.name.startswith(_FLASH_ATTENTION_DEVICES) for gpu in find_offload_devices(hardware))
    )
