"""How fast a model would be, on described machines."""

import pytest

from phichat.engine.ipc.protocol import DeviceInfo
from phichat.engine.planner.fit_estimate import estimate_speed
from phichat.engine.planner.hardware import DeviceKind, Hardware
from phichat.engine.planner.memory_bandwidth import lookup_gpu_bandwidth, measure_memory_bandwidth
from phichat.engine.planner.memory_estimate import compute_bytes_per_token
from phichat.engine.planner.offload_plan import OffloadRequest, plan_offload
from phichat.gguf.header import GgufHeader
from support.hardware_fixtures import GIB, PHI4, PHI4_MINI, machine


def nvidia(name: str, size: float) -> DeviceInfo:
    return DeviceInfo("CUDA0", f"NVIDIA GeForce {name}", DeviceKind.GPU, int(size * GIB), int(size * GIB))


def rate(header: GgufHeader, hardware: Hardware, layers: int | None = None) -> tuple[float | None, str]:
    where = plan_offload(header, hardware, OffloadRequest(4096, "auto" if layers is None else layers))
    found = estimate_speed(header, hardware, where, lambda threads: 40e9)
    return found.tokens_per_second, found.explanation


@pytest.mark.parametrize(
    ("description", "gigabytes"),
    [
        ("NVIDIA GeForce RTX 4090", 1008),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", 672),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", 256),
        ("NVIDIA A100-SXM4-80GB", 1555),
        ("Apple M2", 100),
        ("Apple M2 Pro", 200),
        ("AMD Radeon RX 7900 XTX (RADV NAVI31)", 960),
    ],
)
def test_cards_are_known_by_the_longest_name(description: str, gigabytes: float) -> None:
    assert lookup_gpu_bandwidth(description) == gigabytes * 1e9


def test_an_unknown_card_is_no_guess() -> None:
    assert lookup_gpu_bandwidth("Banana M20") is None
    found, how = rate(PHI4_MINI, machine(nvidia("Something New", 24)))
    assert found is None
    assert "phichat bench" in how


def test_on_a_cpu_the_memory_is_the_limit() -> None:
    found, how = rate(PHI4, machine())
    limit = 40e9 / compute_bytes_per_token(PHI4)
    assert found is not None
    assert 0.8 * limit < found < limit
    assert "40 GB/s, measured" in how


def test_a_card_is_faster_and_half_of_one_in_between() -> None:
    card = machine(nvidia("RTX 4090", 24))
    on_cpu, half, whole = (rate(PHI4, card, layers)[0] for layers in (0, 20, 41))
    assert on_cpu is not None and half is not None and whole is not None
    assert on_cpu < half < whole
    # What people report for 14 billion weights in Q4_K_M on this card is about 70.
    assert 55 < whole < 90


def test_this_machine_reads_memory() -> None:
    assert measure_memory_bandwidth(1) > 1e8
