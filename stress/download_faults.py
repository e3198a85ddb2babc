"""A download through faults of the hub and through kills, from a stand-in for the hub on this machine.

python stress/download_faults.py faults    a 300 MB file through every fault
python stress/download_faults.py kills     100 kill -9 at random moments: bytes fetched twice
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))
sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from common import say
from download_speed import command, main, offer, pull

from support.fake_hub import Fault, StandIn, http_date


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


if __name__ == "__main__":
    main({"faults": faults, "kills": kills})
