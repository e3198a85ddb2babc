"""Throughput and memory of a download from a stand-in for the hub on this machine.

    python benchmarks/download_speed.py speed     against curl -o and then sha256sum, interleaved
    python benchmarks/download_speed.py memory    peak resident memory for 2 GB

Files lie in the folder that BENCH_TMP names, or else in the system's folder for temporary files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from common import say

from support.fake_hub import Repository, StandIn, stand_in

REPOSITORY, FILE = "someone/model-GGUF", "model-Q4_K_M.gguf"


def main(measurements: dict[str, Callable[[StandIn, Path], None]]) -> None:
    """Run the measurement that the command line names."""
    with tempfile.TemporaryDirectory(prefix="downloads-", dir=os.environ.get("BENCH_TMP")) as folder, stand_in() as hub:
        measurements[sys.argv[1]](hub, Path(folder))


def offer(hub: StandIn, folder: Path, megabytes: int, seed: int = 1) -> Path:
    """A file of random bytes in a repository of the stand-in."""
    path, source = folder / f"source-{seed}", random.Random(seed)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(source.randbytes(1_000_000))
    hub.repositories[REPOSITORY] = Repository({FILE: path})
    hub.sha256(path)
    return path


def command(home: Path, hub: StandIn) -> tuple[list[str], dict[str, str]]:
    """phichat pull of that file, with folders of its own."""
    environment = {**os.environ, "PHICHAT_HOME": str(home), "HF_HOME": str(home / "hf"), "HF_ENDPOINT": hub.url}
    return [sys.executable, "-m", "phichat", "pull", REPOSITORY, "--json"], environment


def pull(home: Path, hub: StandIn) -> dict[str, object]:
    """The last line of a pull that succeeds."""
    arguments, environment = command(home, hub)
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}: {done.stderr}")
    document: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return document


def speed(hub: StandIn, folder: Path) -> None:
    """Against a C client that then reads the file again."""
    source = offer(hub, folder, 1000)
    ratios = []
    for turn in range(5):
        began = time.monotonic()
        address = f"{hub.url}/{REPOSITORY}/resolve/main/{FILE}"
        subprocess.run(["curl", "-sSL", "-o", folder / "curl", address], check=True)
        subprocess.run(["sha256sum", folder / "curl"], check=True, stdout=subprocess.DEVNULL)
        theirs = time.monotonic() - began
        (folder / "curl").unlink()
        home = folder / f"home-{turn}"
        arguments, environment = command(home, hub)
        began = time.monotonic()
        subprocess.run([*arguments], env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ours = time.monotonic() - began
        again = time.monotonic()
        pull(home, hub)
        starting = time.monotonic() - again
        shutil.rmtree(home)
        size = source.stat().st_size / 1e6
        ratios.append(theirs / ours)
        say(
            f"curl and sha256sum {size / theirs:.0f} MB/s, phichat {size / ours:.0f} MB/s "
            f"({starting:.2f} s of it starting): {theirs / ours:.2f}, without starting {theirs / (ours - starting):.2f}"
        )
    say(f"median {median(ratios):.2f}")


def memory(hub: StandIn, folder: Path) -> None:
    """Peak resident set of the whole process."""
    offer(hub, folder, 2000)
    arguments, environment = command(folder / "home", hub)
    program = (
        "import resource, sys; from phichat.cli.app import run_command_line; code = run_command_line(sys.argv[1:]); "
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments[3:]], env=environment, capture_output=True, text=True, check=True
    )
    code, peak = done.stderr.splitlines()[-1].split()
    say(f"exit {code}, peak {float(peak):.0f} MiB for 2 GB")


if __name__ == "__main__":
    main({"speed": speed, "memory": memory})
