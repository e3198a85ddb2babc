"""What a download is worth: faults, kills, throughput and memory, against a stand-in for the hub on this machine.

python benchmarks/downloads.py faults    a 300 MB file through every fault
python benchmarks/downloads.py kills     100 kill -9 at random moments: bytes fetched twice
python benchmarks/downloads.py speed     against curl -o and then sha256sum, interleaved
python benchmarks/downloads.py memory    peak resident memory for 2 GB
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
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from common import say

from support.fake_hub import Fault, Repository, StandIn, http_date, stand_in

REPOSITORY, FILE = "someone/model-GGUF", "model-Q4_K_M.gguf"


def main(what: str) -> None:
    """Run one of the measurements."""
    with tempfile.TemporaryDirectory(prefix="downloads-", dir=os.environ.get("BENCH_TMP")) as folder, stand_in() as hub:
        {"faults": faults, "kills": kills, "speed": speed, "memory": memory}[what](hub, Path(folder))


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


def leftovers(home: Path) -> list[str]:
    """Files beside the blob that no run should leave."""
    return [path.name for path in home.rglob("blobs/*") if len(path.name) != 64]


def faults(hub: StandIn, folder: Path) -> None:
    """Every kind of fault, some repeatedly."""
    source = offer(hub, folder, 300)
    kinds = [
        Fault("reset", after=20_000_000),
        Fault("close", after=5_000_000),
        Fault("status", status=503),
        Fault("status", status=429, retry_after="1"),
        Fault("status", status=429, retry_after=http_date(6)),
        Fault("expired"),
        Fault("flip", after=3_000_000),
        Fault("whole"),
        Fault("wrong-range"),
        Fault("html"),
        Fault("no-length", after=1_000_000),
        Fault("status", status=500),
        Fault("reset", after=0),
        Fault("flip", after=100),
        Fault("close", after=0),
        Fault("expired"),
        Fault("flip", after=1_000_000),
    ]
    random.Random(3).shuffle(kinds)
    hub.faults.extend(kinds)
    began = time.monotonic()
    done = pull(folder / "home", hub)
    say(
        f"{len(kinds) - len(hub.faults)} faults, right hash: {done['sha256'] == hub.sha256(source)}, "
        f"{hub.sent / 300e6:.2f} times the size sent, {time.monotonic() - began:.1f} s, left over {leftovers(folder)}"
    )


def kills(hub: StandIn, folder: Path, count: int = 100) -> None:
    """Downloads are killed at random moments until that many kills have struck."""
    hub.rate = 40e6
    killed = files = sent = size = 0
    chance = random.Random(7)
    left: list[str] = []
    while killed < count:
        source = offer(hub, folder, 300, seed=files)
        home, hub.sent = folder / f"home-{files}", 0
        arguments, environment = command(home, hub)
        while True:
            process = subprocess.Popen(arguments, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            before, delay, began = hub.sent, chance.uniform(0.0, 1.6), time.monotonic()
            while process.poll() is None and hub.sent == before and time.monotonic() - began < 5:
                time.sleep(0.01)
            time.sleep(delay)
            if killed < count and process.poll() is None:
                process.kill()
                process.wait()
                killed += 1
                continue
            if process.wait() == 0:
                break
            raise SystemExit("a pull failed")
        files, sent, size = files + 1, sent + hub.sent, size + source.stat().st_size
        assert pull(home, hub)["sha256"] == hub.sha256(source)
        left += leftovers(home)
        shutil.rmtree(home)
        source.unlink()
    say(
        f"{killed} kills over {files} downloads of 300 MB: {sent - size:,} of {size:,} bytes sent twice, "
        f"{(sent - size) / size:.2%}; left over: {left}"
    )


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
        "import resource, sys; from phichat.cli.app import run; code = run(sys.argv[1:]); "
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments[3:]], env=environment, capture_output=True, text=True, check=True
    )
    code, peak = done.stderr.splitlines()[-1].split()
    say(f"exit {code}, peak {float(peak):.0f} MiB for 2 GB")


if __name__ == "__main__":
    main(sys.argv[1])
