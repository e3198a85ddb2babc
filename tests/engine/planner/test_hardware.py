"""Cores, memory and unused GPUs, on described machines."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from phichat.engine.ipc.protocol import EngineInfo
from phichat.engine.planner.hardware import (
    Hardware,
    count_usable_cores,
    describe_unused_gpu,
    probe_from_engine,
    probe_memory,
)

GIB = 1 << 30
CPU_ONLY = Hardware(8, 16 * GIB, 12 * GIB)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n", encoding="utf-8")
    return root


def hyperthreads(cores: int) -> dict[str, str]:
    """Two logical CPUs a core, numbered as Linux does: the second threads after the first ones."""
    files = {}
    for cpu in range(2 * cores):
        topology = f"sys/devices/system/cpu/cpu{cpu}/topology"
        files |= {f"{topology}/core_id": str(cpu % cores), f"{topology}/physical_package_id": "0"}
    return files


def test_this_machine() -> None:
    hardware = probe_from_engine(EngineInfo("", "", "", False, ()))
    assert 1 <= hardware.physical_cores <= (psutil.cpu_count() or 1)
    assert 0 < hardware.ram_available <= hardware.ram_total <= psutil.virtual_memory().total


def test_two_threads_of_a_core_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 16 if logical else 8)
    root = write(tmp_path, hyperthreads(8))
    assert count_usable_cores(root, frozenset(range(16))) == 8
    assert count_usable_cores(root, frozenset({0, 8})) == 1
    assert count_usable_cores(root, frozenset({0, 1, 8})) == 2


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        ({"proc/self/cgroup": "0::/on/the/host", "sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n2:memory:/",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_quota_us": "50000",
                "sys/fs/cgroup/cpu/docker/x/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        ({"proc/self/cgroup": "3:cpu:/", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 8),
    ],
)
def test_cpu_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8)
    assert count_usable_cores(write(tmp_path, files), frozenset(range(8))) == cores


def test_memory_limit_v2_counts_cached_files_as_free(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/box",
            "sys/fs/cgroup/box/memory.max": str(64 << 20),
            "sys/fs/cgroup/box/memory.current": str(48 << 20),
            "sys/fs/cgroup/box/memory.stat": f"anon 1\ninactive_file {32 << 20}",
        },
    )
    memory = probe_memory(root)
    assert (memory.total, memory.available) == (64 << 20, 48 << 20)


def test_memory_limit_v1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(32 << 20),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(40 << 20),
        },
    )
    memory = probe_memory(root)
    assert (memory.total, memory.available) == (32 << 20, 0)


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert probe_memory(tmp_path).total == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("system", "machine", "files", "words"),
    [
        ("linux", "x86_64", {"proc/driver/nvidia/version": "NVRM"}, "an NVIDIA GPU"),
        ("linux", "x86_64", {"dev/nvidia0": ""}, "CUDA build"),
        ("linux", "x86_64", {"sys/class/drm/card0/device/vendor": "0x1002"}, "an AMD GPU"),
        ("win32", "AMD64", {"System32/nvcuda.dll": ""}, "an NVIDIA GPU"),
        ("darwin", "arm64", {}, "Metal build"),
    ],
)
def test_unused_gpu_is_named(tmp_path: Path, system: str, machine: str, files: dict[str, str], words: str) -> None:
    line = describe_unused_gpu(CPU_ONLY, system=system, machine=machine, root=write(tmp_path, files))
    assert line is not None
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(("system", "machine"), [("linux", "x86_64"), ("win32", "AMD64"), ("darwin", "x86_64")])
def test_no_gpu_no_line(tmp_path: Path, system: str, machine: str) -> None:
    root = write(tmp_path, {"sys/class/drm/card0/device/vendor": "0x8086"})
    assert describe_unused_gpu(CPU_ONLY, system=system, machine=machine, root=root) is None


def test_a_gpu_build_is_not_told_to_change(tmp_path: Path) -> None:
    root = write(tmp_path, {"dev/nvidia0": ""})
    hardware = Hardware(8, 16 * GIB, 12 * GIB, (), offload_supported=True)
    assert describe_unused_gpu(hardware, system="linux", root=root) is None
