"""Shared code of the benchmarks: running `phichat` with a PHICHAT_HOME of its own, medians, tables."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

WORKER = "phichat.engine.worker"


def say(line: str = "") -> None:
    """One line of the report, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as their widest cell; floats with three significant digits or more."""
    cells = [[f"{cell:,.1f}" if isinstance(cell, float) else str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    for row in cells:
        say(
            "  ".join(
                cell.ljust(width) if at == 0 else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )


def verdict(what: str, ratio: float, target: float) -> None:
    """A ratio that should be at least `target`."""
    say(f"{what}: {ratio:.3f} (target at least {target:.2f}): {'met' if ratio >= target else 'MISSED'}")


def limit(what: str, value: float, target: float, unit: str) -> None:
    """A value that should be at most `target`."""
    say(f"{what}: {value:.1f} {unit} (target at most {target:g} {unit}): {'met' if value <= target else 'MISSED'}")


def percentile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def spread(values: Sequence[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):,.1f} [{min(values):,.1f} .. {max(values):,.1f}]"


@contextlib.contextmanager
def phichat_home() -> Iterator[dict[str, str]]:
    """An environment whose PHICHAT_HOME is a new empty folder."""
    with tempfile.TemporaryDirectory(prefix="phichat-benchmark-") as home:
        yield environment(Path(home))


def environment(home: Path) -> dict[str, str]:
    """This process's environment with another PHICHAT_HOME, no model chosen by it, and no engine that stays."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PHICHAT_")}
    return kept | {"PHICHAT_HOME": str(home), "PHICHAT_KEEP_ALIVE": "0", "NO_COLOR": "1"}


def phichat(*arguments: object) -> list[str]:
    """The command line of a phichat verb in this interpreter."""
    return [sys.executable, "-m", "phichat", *map(str, arguments)]


def ask_json(env: dict[str, str], *arguments: object, stdin: str | None = None) -> dict[str, Any]:
    """What `phichat ask --json` says. Ends the benchmark with its stderr when it fails."""
    done = subprocess.run(
        phichat("ask", "--json", *arguments),
        input=stdin or "",
        env=env,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise SystemExit(f"phichat ask failed with {done.returncode}: {done.stderr.strip()}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def engines_of(home: str) -> list[psutil.Process]:
    """The engine processes, alive, that were started with this PHICHAT_HOME."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE or WORKER not in process.cmdline():
                continue
            if process.environ().get("PHICHAT_HOME") == home:
                found.append(process)
    return found


def engine_under(pid: int) -> psutil.Process | None:
    """The engine process that the phichat process `pid` has started."""
    with contextlib.suppress(psutil.Error, OSError):
        for child in psutil.Process(pid).children():
            with contextlib.suppress(psutil.Error, OSError):
                if WORKER in child.cmdline():
                    return child
    return None


def default_interrupts() -> None:
    """Give SIGINT its usual meaning: shells start background jobs with it ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
