"""KV cache types where they are left to choose."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.engine.planner.kv_cache_types import plan_with_cache_types
from phichat.engine.planner.offload_plan import OffloadRequest, plan_offload
from phichat.gguf.header import GgufHeader
from support.hardware_fixtures import GIB, PHI4, PHI4_MINI, card, machine

Q8 = ("q8_0", "q8_0")
CPU_16 = machine(ram=16, free=13)


def test_memory_that_suffices_leaves_the_cache_as_it_is() -> None:
    for hardware in (CPU_16, machine(card(8))):
        chosen = plan_with_cache_types(PHI4_MINI, hardware, OffloadRequest())
        assert chosen == replace(plan_offload(PHI4_MINI, hardware, OffloadRequest()), max_ctx=chosen.max_ctx)
        assert chosen.type_k == "f16"


def test_a_context_that_was_asked_for_and_does_not_fit_gets_a_smaller_cache() -> None:
    request = OffloadRequest(98304)
    assert not plan_offload(PHI4_MINI, CPU_16, request).fits
    chosen = plan_with_cache_types(PHI4_MINI, CPU_16, request)
    assert (chosen.fits, chosen.n_ctx, (chosen.type_k, chosen.type_v)) == (True, 98304, Q8)
    assert len(chosen.notices) == 1
    assert "98,304 tokens don't fit in memory at f16. Force f16 with --cache-type-k f16." in chosen.notices[0]


def test_the_usual_context_is_not_shortened_where_a_smaller_cache_makes_room() -> None:
    crowded = machine(card(10.5))
    assert plan_offload(PHI4, crowded, OffloadRequest()).n_ctx < 8192
    chosen = plan_with_cache_types(PHI4, crowded, OffloadRequest())
    assert (chosen.n_ctx, chosen.n_gpu_layers, chosen.type_v) == (8192, 41, "q8_0")


@pytest.mark.parametrize("name", ["Vulkan0", "SYCL0"])
def test_cards_that_may_not_compute_it_keep_the_usual_cache(name: str) -> None:
    hardware = machine(card(10.5, name))
    assert plan_with_cache_types(PHI4, hardware, OffloadRequest()) == plan_offload(PHI4, hardware, OffloadRequest())


def test_heads_that_cannot_be_packed_keep_the_usual_cache() -> None:
    odd = replace(PHI4_MINI, metadata={**PHI4_MINI.metadata, "phi3.attention.key_length": 80})
    request = OffloadRequest(98304)
    assert plan_with_cache_types(odd, CPU_16, request) == plan_offload(odd, CPU_16, request)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([PHI4, PHI4_MINI]),
    st.sampled_from([None, 512, 4096, 8192, 16384]),
    st.lists(st.floats(0, 26), max_size=2),
    st.floats(0, 40),
)
def test_leaving_it_to_choose_never_fits_less(
    header: GgufHeader, n_ctx: int | None, sizes: list[float], free: float
) -> None:
    found = [card(size, f"CUDA{index}", used=0) for index, size in enumerate(sizes)]
    hardware = machine(*found, ram=48, free=free)
    request = OffloadRequest(n_ctx)
    usual, chosen = plan_offload(header, hardware, request), plan_with_cache_types(header, hardware, request)
    assert chosen.fits >= usual.fits
    assert chosen.max_ctx >= usual.max_ctx
    if usual.fits:
        assert chosen.n_ctx >= usual.n_ctx
    if chosen.type_k != usual.type_k and chosen.fits:
        assert not usual.fits or chosen.n_ctx > usual.n_ctx
        assert chosen.total - chosen.reclaimable <= free * GIB + sum(device.memory_free for device in found)
    if chosen.fits:
        again = plan_with_cache_types(header, hardware, OffloadRequest(chosen.max_ctx))
        assert again.fits
