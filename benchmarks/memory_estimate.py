"""Error of the memory that `phichat fit` predicts, against what the engine process takes.

    python benchmarks/memory_estimate.py [MODEL.gguf ...] [--contexts 2048,8192] [--cache-types f16,q8_0]

Without a MODEL, the embedded one. Each is loaded in each context with each type of KV cache, and reads a
prompt of several batches; then the largest resident size that the process had (mapped file pages counted
in) is compared with the plan's total. What lies on a GPU is left out of both. Linux only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from common import limit, say, table

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.local import LocalBackend
from phichat.engine.planner.offload_plan import CPU
from phichat.models.local.local_models import LocalModels
from phichat.paths import Paths
from phichat.types import Message, Role, SamplingParams

PROMPT = "The quick brown fox jumps over the lazy dog, and counts to 12345. "


def largest_resident(pid: int) -> int:
    """Bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not tell the largest resident size of a process")


def measure(path: Path, n_ctx: int, kind: str, verdicts: ProbeCache) -> tuple[int, int]:
    """Predicted and taken, in bytes."""
    options = EngineOptions(ctx_size=n_ctx, cache_type_k=kind, cache_type_v=kind)
    backend = LocalBackend(path.stem, path, options, verdicts)
    cancel = CancelToken()
    try:
        # The first load of all may have found out about the CPU by a crash; this one is like any later one.
        for _ in range(2):
            backend.close()
            for _ in backend.load(cancel):
                pass
        repeats = min(n_ctx, 1300) // 20
        while backend.count_tokens([message := Message(Role.USER, PROMPT * repeats)], cancel) > n_ctx - 8:
            repeats //= 2
        for _ in backend.generate([message], SamplingParams(temperature=0, max_tokens=4), cancel):
            pass
        planned = next(placement for placement in backend.engine.plan.placements if placement.device == CPU)
        return planned.total, largest_resident(backend.pid)
    finally:
        backend.close()


def main() -> None:
    if not sys.platform.startswith("linux"):
        raise SystemExit("this benchmark reads /proc, which only Linux has")
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("models", nargs="*", type=Path)
    options.add_argument("--contexts", default="2048,8192")
    options.add_argument("--cache-types", default="f16,q8_0")
    given = options.parse_args()
    models = given.models or [LocalModels.from_paths(Paths.from_environment()).resolve_model("smollm2-135m").path]
    rows, worst = [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        verdicts = ProbeCache(Path(folder) / "engine.json")
        for path in models:
            for n_ctx in map(int, given.contexts.split(",")):
                for kind in given.cache_types.split(","):
                    planned, taken = measure(path, n_ctx, kind, verdicts)
                    off = 100 * (planned / taken - 1)
                    worst = max(worst, abs(off))
                    rows.append((path.stem, f"{n_ctx:,}", kind, planned / 1e6, taken / 1e6, f"{off:+.1f} %"))
    table(("model", "context", "KV cache", "planned MB", "taken MB", "off"), rows)
    say()
    limit("largest deviation", worst, 10, "%")


if __name__ == "__main__":
    main()
