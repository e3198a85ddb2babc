"""The planner on described machines, against figures that llama.cpp logged, and its properties."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.engine.ipc.protocol import DeviceInfo
from phichat.engine.planner import memory_estimate
from phichat.engine.planner.hardware import DeviceKind, Hardware
from phichat.engine.planner.memory_estimate import compute_bytes_per_token
from phichat.engine.planner.offload_plan import OffloadPlan, OffloadRequest, plan_offload, require_fit
from phichat.errors import ModelDoesNotFit, UsageError
from phichat.gguf.header import GgufHeader
from phichat.gguf.types import find_type
from support.hardware_fixtures import GIB, PHI4, PHI4_MINI, PHI4_MINI_LOGGED, card, header_of, machine

MIB = 1 << 20
F16 = find_type("f16")
X86 = memory_estimate.find_repack_types("x86_64")


NVIDIA_8 = machine(card(8))
NVIDIA_24 = machine(card(24))
TWO_CARDS = machine(card(24), card(12, "CUDA1"))
APPLE_16 = machine(
    DeviceInfo("MTL0", "Apple M2", DeviceKind.INTEGRATED, int(11.8 * GIB), int(11.8 * GIB)), ram=16, free=12
)
CPU_16 = machine(ram=16, free=13)
MACHINES = [NVIDIA_8, NVIDIA_24, TWO_CARDS, APPLE_16, CPU_16]


def placed(result: OffloadPlan, device: str) -> int:
    return sum(placement.total for placement in result.placements if placement.device == device)


def test_shapes_are_those_of_the_published_files() -> None:
    assert PHI4.file_size == pytest.approx(9.05e9, rel=0.03)
    assert sum(memory_estimate.estimate_kv_cache(PHI4, 8192, F16, F16)) / 8192 == 200 * 1024


@pytest.mark.parametrize(
    ("n_ctx", "n_ubatch", "logged"),
    [(512, 512, 220.51), (2048, 512, 222.01), (8192, 512, 208.0), (32768, 512, 208.0), (2048, 64, 27.75)],
)
def test_compute_buffer_is_what_llama_cpp_logs(n_ctx: int, n_ubatch: int, logged: float) -> None:
    assert memory_estimate.estimate_reserved_compute(PHI4_MINI_LOGGED, n_ctx, n_ubatch) / MIB == pytest.approx(
        logged, rel=0.08
    )


@pytest.mark.parametrize(("n_ctx", "logged"), [(512, 64), (2048, 256), (8192, 1024), (32768, 4096)])
def test_kv_cache_is_what_llama_cpp_logs(n_ctx: int, logged: int) -> None:
    assert sum(memory_estimate.estimate_kv_cache(PHI4_MINI_LOGGED, n_ctx, F16, F16)) == logged * MIB


def test_quantized_kv_cache_is_what_llama_cpp_logs() -> None:
    q8 = memory_estimate.parse_cache_type("q8_0")
    assert sum(memory_estimate.estimate_kv_cache(PHI4_MINI_LOGGED, 8192, q8, q8)) == 544 * MIB


@pytest.mark.parametrize(
    ("n_ctx", "repack", "resident"),
    [(2048, frozenset(), 2613.1), (8192, frozenset(), 3383.7), (2048, X86, 4125.1), (8192, X86, 4895.8)],
)
def test_total_is_the_memory_of_the_process(n_ctx: int, repack: frozenset[str], resident: float) -> None:
    result = plan_offload(PHI4_MINI_LOGGED, CPU_16, OffloadRequest(n_ctx, n_threads=2, repack_types=repack))
    assert result.total / MIB == pytest.approx(resident, rel=0.1)
    assert result.reclaimable == (1512 * MIB if repack else 0)


def test_small_card_takes_a_part_of_phi_4() -> None:
    result = plan_offload(PHI4, NVIDIA_8, OffloadRequest())
    assert result.fits
    assert 15 <= result.n_gpu_layers <= 35
    assert result.n_ctx == 8192
    assert result.tensor_split == ()


def test_small_card_takes_all_of_phi_4_mini() -> None:
    result = plan_offload(PHI4_MINI, NVIDIA_8, OffloadRequest())
    assert (result.fits, result.n_gpu_layers, result.n_ctx) == (True, 33, 8192)


def test_large_card_takes_all_of_phi_4() -> None:
    result = plan_offload(PHI4, NVIDIA_24, OffloadRequest(16384))
    assert (result.fits, result.n_gpu_layers, result.max_ctx) == (True, 41, 16384)
    assert placed(result, "CPU") < 2 * GIB


def test_context_shrinks_for_the_sake_of_the_last_layers() -> None:
    result = plan_offload(PHI4, machine(card(10.5)), OffloadRequest())
    assert result.n_gpu_layers == 41
    assert 4096 <= result.n_ctx < 8192
    assert result.notices[0].startswith("Context reduced from 8,192 to ")


def test_two_cards_share_in_proportion() -> None:
    result = plan_offload(PHI4, TWO_CARDS, OffloadRequest())
    assert sum(result.tensor_split) == result.n_gpu_layers == 41
    assert 1.7 < result.tensor_split[0] / result.tensor_split[1] < 2.6


def test_output_layer_goes_to_the_card_that_can_hold_it() -> None:
    result = plan_offload(PHI4, machine(card(24), card(1, "CUDA1")), OffloadRequest())
    assert (result.fits, result.tensor_split) == (True, (41.0, 0.0))


def test_an_integrated_gpu_beside_a_card_is_left_alone() -> None:
    igpu = DeviceInfo("Vulkan1", "iGPU", DeviceKind.INTEGRATED, 16 * GIB, 12 * GIB)
    result = plan_offload(PHI4_MINI, machine(card(8), igpu), OffloadRequest())
    assert result.tensor_split == ()
    assert {placement.device for placement in result.placements} == {"CPU", "CUDA0"}


def test_unified_memory_is_counted_once() -> None:
    result = plan_offload(PHI4, APPLE_16, OffloadRequest())
    assert result.fits
    assert result.n_gpu_layers == 41
    assert result.total <= APPLE_16.ram_available
    crowded = machine(*APPLE_16.devices, ram=16, free=6)
    assert not plan_offload(PHI4, crowded, OffloadRequest()).fits


def test_cpu_only() -> None:
    result = plan_offload(PHI4, CPU_16, OffloadRequest(repack_types=X86))
    assert (result.fits, result.n_gpu_layers, result.n_ctx) == (True, 0, 8192)
    assert len(result.placements) == 1
    assert result.max_ctx > 8192
    assert "no usable GPU" in plan_offload(PHI4, CPU_16, OffloadRequest(n_gpu_layers="all")).notices[-1]


def test_explicit_context_is_kept_and_refused() -> None:
    result = plan_offload(PHI4_MINI, CPU_16, OffloadRequest(131072))
    assert result.n_ctx == 131072
    assert not result.fits
    assert result.shortfall > 0
    assert 8192 < result.max_ctx < 131072
    with pytest.raises(
        ModelDoesNotFit, match=r"phi-4-mini with .* needs [\d.]+ GB of RAM, but only 13.7 GB is free"
    ) as caught:
        require_fit(result, "phi-4-mini")
    assert caught.value.next_step == f"Ask for a smaller context with --ctx-size {result.max_ctx}"
    require_fit(plan_offload(PHI4_MINI, CPU_16, OffloadRequest(result.max_ctx)), "phi-4-mini")


def test_weights_that_do_not_fit() -> None:
    result = plan_offload(PHI4, machine(ram=8, free=6), OffloadRequest())
    assert (result.fits, result.max_ctx, result.n_ctx) == (False, 0, 2048)
    with pytest.raises(ModelDoesNotFit) as caught:
        require_fit(result, "phi-4")
    assert "smaller quantization" in caught.value.next_step


def test_explicit_layers() -> None:
    assert plan_offload(PHI4, NVIDIA_8, OffloadRequest(n_gpu_layers=10)).n_gpu_layers == 10
    assert plan_offload(PHI4, NVIDIA_8, OffloadRequest(n_gpu_layers=0)).n_gpu_layers == 0
    assert plan_offload(PHI4, NVIDIA_24, OffloadRequest(n_gpu_layers=999)).n_gpu_layers == 41
    result = plan_offload(PHI4, NVIDIA_8, OffloadRequest(n_gpu_layers="all"))
    assert not result.fits
    with pytest.raises(ModelDoesNotFit, match="CUDA0") as caught:
        require_fit(result, "phi-4")
    assert "--n-gpu-layers auto" in caught.value.next_step


def test_context_beyond_training_is_a_notice() -> None:
    result = plan_offload(PHI4, NVIDIA_24, OffloadRequest(20000))
    assert (result.fits, result.n_ctx) == (True, 20000)
    assert "16,384" in result.notices[0]


def test_layers_without_attention_have_no_cache() -> None:
    metadata = {
        "general.architecture": "lfm2",
        "lfm2.block_count": 3,
        "lfm2.embedding_length": 64,
        "lfm2.attention.head_count": 4,
        "lfm2.attention.head_count_kv": (2, 0, 2),
        "lfm2.shortconv.l_cache": 3,
    }
    assert memory_estimate.estimate_kv_cache(header_of(metadata, 100, []), 256, F16, F16) == (32768, 512, 32768)


def test_unknown_cache_type() -> None:
    with pytest.raises(UsageError, match="q9_9"):
        plan_offload(PHI4, CPU_16, OffloadRequest(type_k="q9_9"))


def test_bytes_read_per_token() -> None:
    embedding = PHI4.tensors[0].size_bytes
    assert compute_bytes_per_token(PHI4) == PHI4.file_size - embedding
    assert compute_bytes_per_token(PHI4_MINI) == PHI4_MINI.file_size
    metadata = {"general.architecture": "m", "m.expert_count": 8, "m.expert_used_count": 2}
    tensors = [
        ("token_embd.weight", "F32", (64, 10)),
        ("blk.0.ffn_up_exps.weight", "F32", (64, 64, 8)),
        ("output.weight", "F32", (64, 10)),
    ]
    assert compute_bytes_per_token(header_of(metadata, 10, tensors)) == 64 * 64 * 2 * 4 + 64 * 10 * 4


@st.composite
def cards(draw: st.DrawFn) -> list[DeviceInfo]:
    sizes = draw(st.lists(st.floats(0, 26), max_size=3))
    return [card(size, f"CUDA{index}", used=0) for index, size in enumerate(sizes)]


models = st.sampled_from([PHI4, PHI4_MINI])
contexts = st.sampled_from([None, 512, 4096, 8192, 16384])


@settings(max_examples=80, deadline=None)
@given(models, contexts, cards(), st.floats(0, 40))
def test_what_fits_stays_within_what_is_free(
    header: GgufHeader, n_ctx: int | None, found: list[DeviceInfo], free: float
) -> None:
    hardware = machine(*found, ram=48, free=free)
    result = plan_offload(header, hardware, OffloadRequest(n_ctx))
    assert result.fits == (result.shortfall == 0)
    assert not (result.fits and result.next_step)
    assert 0 <= result.n_gpu_layers <= header.block_count + 1
    if result.fits:
        assert result.max_ctx >= result.n_ctx
        assert placed(result, "CPU") - result.reclaimable <= hardware.ram_available
        for device in found:
            assert placed(result, device.name) <= device.memory_free


@settings(max_examples=80, deadline=None)
@given(models, cards(), st.integers(0, 2), st.floats(0, 12), st.floats(0, 40))
def test_more_memory_never_gives_fewer_layers(
    header: GgufHeader, found: list[DeviceInfo], which: int, more: float, free: float
) -> None:
    request = OffloadRequest(4096)
    before = plan_offload(header, machine(*found, free=free), request)
    if which < len(found):
        larger = found[which].memory_total / GIB + more
        found = [*found[:which], card(larger, found[which].name, used=0), *found[which + 1 :]]
    after = plan_offload(header, machine(*found, free=free + more), request)
    if before.fits:
        assert after.fits
        assert after.n_gpu_layers >= before.n_gpu_layers


@settings(max_examples=80, deadline=None)
@given(models, cards(), st.integers(1, 64), st.integers(0, 64), st.floats(0, 40))
def test_a_larger_context_never_takes_less(
    header: GgufHeader, found: list[DeviceInfo], steps: int, more: int, free: float
) -> None:
    hardware = machine(*found, free=free)
    smaller = plan_offload(header, hardware, OffloadRequest(256 * steps))
    larger = plan_offload(header, hardware, OffloadRequest(256 * (steps + more)))
    assert larger.all_devices.kv_cache >= smaller.all_devices.kv_cache
    assert smaller.fits or not larger.fits
    if smaller.fits and larger.fits:
        assert larger.n_gpu_layers <= smaller.n_gpu_layers


def refusal(header: GgufHeader, hardware: Hardware, request: OffloadRequest) -> str:
    with pytest.raises(ModelDoesNotFit) as caught:
        require_fit(
            plan_offload(header, hardware, request), "it", [("small", 100 * MIB), ("middling", GIB), ("huge", 30 * GIB)]
        )
    return caught.value.next_step


def test_the_nearest_choice_is_a_smaller_context_then_a_smaller_cache_then_another_model() -> None:
    assert "--ctx-size" in refusal(PHI4_MINI, machine(ram=16, free=8), OffloadRequest(131072))
    only_just = OffloadRequest(2048)
    kv = sum(memory_estimate.estimate_kv_cache(PHI4_MINI, 2048, F16, F16))
    free = (plan_offload(PHI4_MINI, CPU_16, only_just).total - kv // 4) / GIB + 0.25
    assert refusal(PHI4_MINI, machine(ram=16, free=free), only_just).endswith("--cache-type-k q8_0 --cache-type-v q8_0")
    assert refusal(PHI4, machine(ram=16, free=4), OffloadRequest()).endswith("or middling (1.1 GB), which fits")
    assert refusal(PHI4, machine(ram=1, free=0.1), OffloadRequest()).endswith("or a smaller model")
