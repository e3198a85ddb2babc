"""Cores, memory and devices of this machine.

Devices come from llama.cpp, which only the engine process loads; everything else comes from the operating system,
with the limits of a container (cgroup v1 and v2) applied.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import psutil

from phichat.engine.ipc.protocol import DeviceInfo, EngineInfo


class DeviceKind(StrEnum):
    """Kind of a ggml device."""

    CPU = "cpu"
    GPU = "gpu"
    """Has memory of its own."""
    INTEGRATED = "igpu"
    """Shares the RAM with the CPU, as on Apple silicon."""


@dataclass(frozen=True, slots=True)
class RamInfo:
    """RAM that this process may use, in bytes: in all, and at present."""

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class Hardware:
    """This machine, RAM in bytes.

    physical_cores: those this process may use. devices: in llama.cpp's order, each with a DeviceKind.
    offload_supported: llama.cpp was built with a GPU backend. library_file: its shared library.
    """

    physical_cores: int
    ram_total: int
    ram_available: int
    devices: tuple[DeviceInfo, ...] = ()
    offload_supported: bool = False
    library_file: Path = Path()

    def with_free_memory(self) -> Hardware:
        """Return the same machine with all of its memory free."""
        devices = tuple(replace(device, memory_free=device.memory_total) for device in self.devices)
        return replace(self, ram_available=self.ram_total, devices=devices)


def probe_from_engine(engine_info: EngineInfo) -> Hardware:
    """Return this machine's hardware, with the devices that an engine process reported."""
    memory = probe_memory()
    return Hardware(
        physical_cores=count_usable_cores(),
        ram_total=memory.total,
        ram_available=memory.available,
        devices=tuple(replace(device, kind=_to_device_kind(device)) for device in engine_info.devices),
        offload_supported=engine_info.offload_supported,
        library_file=Path(engine_info.library_file),
    )


def _to_device_kind(device: DeviceInfo) -> DeviceKind:
    # ggml reports Metal's devices as discrete GPUs; on Apple silicon their memory is the RAM.
    if device.name.startswith("MTL") and platform.machine() == "arm64":
        return DeviceKind.INTEGRATED
    return DeviceKind(device.kind) if device.kind in ("gpu", "igpu") else DeviceKind.CPU


def probe_memory(root: Path = Path("/")) -> RamInfo:
    """Return the RAM of the machine, or of the cgroup where that has less. root: where /proc and /sys are."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for folder in _find_cgroup_dirs(root, "memory"):
        limit = _read_first_number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _read_first_number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is not None and limit < machine.total:
            total = min(total, limit)
            if used is not None:
                # The kernel drops cached file pages before it refuses memory, so they count as free.
                available = min(available, max(0, limit - max(0, used - _read_inactive_file_bytes(folder))))
    return RamInfo(total, min(total, available))


def count_usable_cores(root: Path = Path("/"), affinity: frozenset[int] | None = None) -> int:
    """Return the number of physical cores that this process may use, at least 1.

    affinity: the logical CPUs it is bound to, None to ask the operating system. A CPU quota of the cgroup (cpu.max,
    cpu.cfs_quota_us) counts in whole cores, rounded up.
    """
    cpus = _get_affinity() if affinity is None else affinity
    limits = [psutil.cpu_count(logical=False) or psutil.cpu_count(logical=True) or 1]
    if cpus:
        limits.append(_count_cores(cpus, root))
    quotas = map(_read_cpu_quota, _find_cgroup_dirs(root, "cpu"))
    limits += [math.ceil(quota) for quota in quotas if quota is not None]
    return max(1, min(limits))


def count_usable_cpus() -> int:
    """Return the number of logical CPUs that this process may use, at least 1."""
    return len(_get_affinity()) or psutil.cpu_count(logical=True) or 1


def describe_unused_gpu(
    hardware: Hardware, *, system: str = sys.platform, machine: str | None = None, root: Path | None = None
) -> str | None:
    """Return a notice when there is a GPU that this build of llama.cpp cannot use, else None.

    system, machine: as in sys.platform and platform.machine(). root: where /proc, /dev and /sys are, or the Windows
    folder.
    """
    windows, gpu = root or Path(os.environ.get("SYSTEMROOT", r"C:\Windows")), None
    if system == "darwin":
        gpu = ("an Apple GPU", "Metal") if (machine or platform.machine()) == "arm64" else None
    elif system == "win32":
        gpu = ("an NVIDIA GPU", "CUDA") if (windows / "System32" / "nvcuda.dll").exists() else None
    else:
        gpu = _find_linux_gpu(root or Path("/"))
    if hardware.offload_supported or gpu is None:
        return None
    return f"This machine has {gpu[0]}, but llama-cpp-python was built for CPU only. See README for the {gpu[1]} build."


def find_offload_devices(hardware: Hardware) -> tuple[DeviceInfo, ...]:
    """Return the devices that llama.cpp offloads to: integrated GPUs only where there is no other."""
    devices = hardware.devices if hardware.offload_supported else ()
    gpus = tuple(device for device in devices if device.kind is DeviceKind.GPU)
    return gpus or tuple(device for device in devices if device.kind is DeviceKind.INTEGRATED)


def _find_linux_gpu(root: Path) -> tuple[str, str] | None:
    if (root / "proc/driver/nvidia/version").exists() or (root / "dev/nvidia0").exists():
        return "an NVIDIA GPU", "CUDA"
    vendors = map(_read_text, (root / "sys/class/drm").glob("card*/device/vendor"))
    return ("an AMD GPU", "ROCm or Vulkan") if "0x1002" in vendors else None


def _get_affinity() -> frozenset[int]:
    # macOS and Windows lack the call, and a Windows process bound to some CPUs is rare.
    return frozenset(os.sched_getaffinity(0) if sys.platform == "linux" else ())


def _count_cores(cpus: frozenset[int], root: Path) -> int:
    """Return the number of physical cores of these logical CPUs; without topology information, one each."""
    cores = set()
    for cpu in cpus:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        package, core = _read_text(topology / "physical_package_id"), _read_text(topology / "core_id")
        cores.add((package, core) if core else (package, f"cpu{cpu}"))
    return len(cores)


def _find_cgroup_dirs(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the cgroups that limit this process, innermost first: a parent's limit holds too.

    A container often sees its own cgroup mounted at the top while /proc names the host's path, so folders that do not
    exist are left out and the top is always included.
    """
    for line in _read_text(root / "proc/self/cgroup").splitlines():
        hierarchy_id, _, remainder = line.partition(":")
        controllers, _, path = remainder.partition(":")
        if hierarchy_id == "0" and not controllers:
            mount_point = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount_point = root / "sys/fs/cgroup" / controller
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        folders = (mount_point.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1))
        yield from (folder for folder in folders if folder.is_dir())


def _read_cpu_quota(folder: Path) -> float | None:
    """Return the CPUs that a cgroup grants, None when it sets no limit."""
    version_1 = (_read_text(folder / name) for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us"))
    words = _read_text(folder / "cpu.max").split() or [*version_1]
    if len(words) == 2 and words[0].isdigit() and words[1].isdigit() and int(words[1]) > 0:
        return int(words[0]) / int(words[1])
    return None


def _read_inactive_file_bytes(folder: Path) -> int:
    counts = dict(line.partition(" ")[::2] for line in _read_text(folder / "memory.stat").splitlines())
    count = counts.get("total_inactive_file", counts.get("inactive_file", ""))
    return int(count) if count.isdigit() else 0


def _read_first_number(*files: Path) -> int | None:
    return next((int(text) for text in map(_read_text, files) if text.isdigit()), None)


def _read_text(file: Path) -> str:
    """Return the text of a small kernel file, "" when it cannot be read."""
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").strip()
    return ""
