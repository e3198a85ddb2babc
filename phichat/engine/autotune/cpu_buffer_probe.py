"""Cached outcome of a probe: does a build of llama.cpp crash with this CPU's own buffer types?

llama.cpp repacks weights into buffer types made for the CPU at hand, AMX's among them. Some builds crash in them (GCC
before 12.4 and 13.3 compiles AMX's tile configuration wrongly), which only shows when a batch is evaluated. So the
first load of a kind of weights by a library on a machine evaluates one batch in the engine process; when that process
dies, the next one does without those buffer types.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from phichat.gguf.header import GgufHeader
from phichat.gguf.types import GGML_TYPES
from phichat.storage.json_file import JsonFile


class ProbeOutcome(StrEnum):
    """Outcome of using the CPU's own buffer types."""

    WORKS = "works"
    CRASHES = "crashes"


@dataclass(frozen=True, slots=True)
class ProbeKey:
    """Subject of a probe: a CPU, the files of a library as they are now, and the types of the weights."""

    cpu: str
    library: str
    weight_types: str

    @property
    def key(self) -> str:
        """Hash of the three."""
        return hashlib.sha256("\n".join((self.cpu, self.library, self.weight_types)).encode()).hexdigest()[:24]


def build_probe_key(library_file: Path, header: GgufHeader) -> ProbeKey:
    """Return the key for this machine."""
    # Every library next to it belongs to the build: ggml's CPU code is in a file of its own.
    files = sorted(path for path in library_file.parent.glob("*") if path.is_file() and "ggml" in path.name)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    weight_types = ",".join(sorted({GGML_TYPES[tensor.ggml_type].name for tensor in header.tensors}))
    return ProbeKey(read_cpu_info(), f"{library_file} {stats}", weight_types)


def read_cpu_info() -> str:
    """Return the lines about this machine's CPU that the system gives."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model", "vendor", "flags", "Features", "CPU part")))


def parse_cpu_name(cpu_info: str) -> str:
    """Return the product's name in the result of `read_cpu_info`."""
    return next((line.split(":", 1)[1].strip() for line in cpu_info.splitlines() if "name" in line), cpu_info)


class ProbeCache(JsonFile):
    """File with {"verdict", "cpu", "library", "weights"} by `ProbeKey.key`."""

    def lookup(self, probe_key: ProbeKey) -> ProbeOutcome | None:
        """Return the outcome of an earlier probe, None where there was none."""
        with contextlib.suppress(KeyError, TypeError, ValueError):
            return ProbeOutcome(self.load_entries()[probe_key.key]["verdict"])
        return None

    def store(self, probe_key: ProbeKey, outcome: ProbeOutcome) -> None:
        """Remember an outcome."""
        library = probe_key.library.split(" [")[0]
        entry = {"cpu": parse_cpu_name(probe_key.cpu), "library": library, "weights": probe_key.weight_types}
        self.store_entry(probe_key.key, {"verdict": outcome, **entry})
