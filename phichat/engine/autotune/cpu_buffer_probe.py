"""What was found out about a library on a machine, remembered.

llama.cpp repacks weights into buffer types made for the CPU at hand, AMX's among them. Some builds
crash in them (GCC before 12.4 and 13.3 compiles AMX's tile configuration wrongly), which only shows
when a batch is evaluated. So the first load of a kind of weights by a library on a machine evaluates
one batch in the engine process; when that dies, the next process does without those buffer types.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from phichat.gguf.header import GgufHeader
from phichat.gguf.types import GGML_TYPES
from phichat.storage.json_file import JsonFile


class ProbeOutcome(StrEnum):
    """Whether the CPU's own buffer types can be used."""

    WORKS = "works"
    CRASHES = "crashes"


@dataclass(frozen=True, slots=True)
class ProbeKey:
    """What a verdict is about: a CPU, a library file as it is now, and the types of the weights."""

    cpu: str
    library: str
    weight_types: str

    @property
    def key(self) -> str:
        """A short name for the three."""
        return hashlib.sha256("\n".join((self.cpu, self.library, self.weight_types)).encode()).hexdigest()[:24]


def build_probe_key(library_file: Path, header: GgufHeader) -> ProbeKey:
    """The subject for this machine."""
    # Every library beside it belongs to the build: ggml's CPU code is in a file of its own.
    files = sorted(path for path in library_file.parent.glob("*") if path.is_file() and "ggml" in path.name)
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    weight_types = ",".join(sorted({GGML_TYPES[tensor.ggml_type].name for tensor in header.tensors}))
    return ProbeKey(read_cpu_info(), f"{library_file} {stats}", weight_types)


def read_cpu_info() -> str:
    """What the system says of this machine's."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").split("\n\n", 1)[0].splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(line for line in lines if line.startswith(("model", "vendor", "flags", "Features", "CPU part")))


def parse_cpu_name(cpu_info: str) -> str:
    """The product's name in what `cpu` gave."""
    return next((line.split(":", 1)[1].strip() for line in cpu_info.splitlines() if "name" in line), cpu_info)


class ProbeCache(JsonFile):
    """The verdicts of this user: {"verdict", "cpu", "library", "weights"} by the key of their subject."""

    def lookup(self, probe_key: ProbeKey) -> ProbeOutcome | None:
        """What is known; None when nothing is."""
        try:
            return ProbeOutcome(self.load_entries()[probe_key.key]["verdict"])
        except (KeyError, TypeError, ValueError):
            return None

    def store(self, probe_key: ProbeKey, outcome: ProbeOutcome) -> None:
        """Keep a verdict."""
        entry = {
            "verdict": outcome,
            "cpu": parse_cpu_name(probe_key.cpu),
            "library": probe_key.library.split(" [")[0],
            "weights": probe_key.weight_types,
        }
        self.store_entry(probe_key.key, entry)
