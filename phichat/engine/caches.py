"""Which types the keys and values of the KV cache are kept in, where that is left to choose."""

from __future__ import annotations

from dataclasses import replace

from phichat.engine.hardware import Hardware
from phichat.engine.offload import OffloadPlan, OffloadRequest, offload_devices, plan
from phichat.gguf_header import GgufHeader

USUAL_CACHE_TYPE = "f16"

_SMALLER = "q8_0"
_BLOCK = 32
"""Numbers that it packs together; a head must be made of whole blocks."""
_FLASH_DEVICES = ("CUDA", "ROCm", "MTL")
"""Cards on which llama.cpp computes flash attention over quantized values; it cannot use them otherwise."""


def plan_with_cache(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> OffloadPlan:
    """`offload.plan`, with a KV cache of 8 bits a number rather than the requested types where that lets the
    wanted context fit: the one asked for, else the one that suits the model."""
    usual = plan(header, hardware, request)
    if not _can_be_smaller(header, hardware):
        return usual
    smaller = plan(header, hardware, replace(request, type_k=_SMALLER, type_v=_SMALLER))
    if usual.fits and smaller.n_ctx <= usual.n_ctx:
        return replace(usual, max_ctx=max(usual.max_ctx, smaller.max_ctx))
    if not smaller.fits:
        return smaller
    notice = (
        f"The KV cache is kept at 8 bits a number ({_SMALLER}), for at {request.type_k} there is no memory for "
        f"{smaller.n_ctx:,} tokens; --cache-type-k {request.type_k} keeps it at that."
    )
    return replace(smaller, notices=(notice, *smaller.notices))


def _can_be_smaller(header: GgufHeader, hardware: Hardware) -> bool:
    heads = {header.key_length, header.value_length}
    heads |= {header.number("{arch}.attention.key_length_swa"), header.number("{arch}.attention.value_length_swa")}
    # Multi-head latent attention has heads of its own kind, and grok's attention is never computed the flash way.
    special = header.architecture == "grok" or header.number("{arch}.attention.key_length_mla") > 0
    return (
        not special
        and all(width % _BLOCK == 0 for width in heads)
        and all(card.name.startswith(_FLASH_DEVICES) for card in offload_devices(hardware))
    )
