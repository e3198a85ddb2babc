"""Size of the saved KV caches of many conversations, checked against the budget all the time.

Every fifth conversation is not to be kept, and nothing may be kept of it.

    python stress/kv_budget.py MODEL.gguf [--conversations 500] [--budget-mb 40]
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path
from threading import Event, Thread
from time import monotonic, sleep

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

from common import limit, say
from kv_engine import ask_engine, engine_keeping

from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.types import Message, Role

_WORDS = ("ship", "sea", "harbour", "keeper", "lamp", "rope", "storm", "anchor", "captain", "chart", "wind", "tide")


def main() -> None:
    """Talk and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--conversations", type=int, default=500)
    parser.add_argument("--budget-mb", type=float, default=40.0)
    given = parser.parse_args()
    budget = int(given.budget_mb * 1e6)
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="phichat-benchmark-") as name:
        folder = KvStore(Path(name) / "states")
        sizes: list[int] = [0]
        done = Event()
        watcher = Thread(target=_watch, args=(folder, sizes, done), daemon=True)
        watcher.start()
        owners: set[str] = set()
        written = number = 0
        while number < given.conversations:
            # Engines come and go.
            with engine_keeping(given.model, Path(name), folder.path, budget) as engine:
                for _ in range(min(50, given.conversations - number)):
                    owner = f"talk{number}" if number % 5 else ""
                    number += 1
                    story = " ".join(chance.choices(_WORDS, k=chance.randrange(140, 260)))
                    ask_engine(engine, [Message(Role.USER, story)], 2, owner)
                    written += _wait_for(folder, owner)
                    owners |= {file.conversation_key for file in folder.list_files()}
        done.set()
        watcher.join()
        say(f"{given.conversations} conversations, {written} states written, looked at {len(sizes):,} times")
        limit("the most that was there", max(sizes) / 1e6, given.budget_mb, "MB")
        unknown = owners - {f"talk{number}" for number in range(given.conversations) if number % 5}
        say(f"states of conversations that are not to be kept: {len(unknown)}")
        left = [file for file in folder.list_files() if file.path.suffix != COMPLETE_SUFFIX]
        say(f"files that are no whole state at the end: {len(left)}")
        if max(sizes) > budget or unknown or left:
            raise SystemExit(1)


def _wait_for(folder: KvStore, owner: str) -> bool:
    """Whether a state of the conversation is written, as soon as nobody asks for anything."""
    until = monotonic() + 3
    while owner and monotonic() < until:
        if any(file.conversation_key == owner and file.path.suffix == COMPLETE_SUFFIX for file in folder.list_files()):
            return True
        sleep(0.02)
    return False


def _watch(folder: KvStore, sizes: list[int], done: Event) -> None:
    while not done.wait(0.002):
        sizes.append(folder.size)


if __name__ == "__main__":
    main()
