"""Kills of engines at any moment of restoring, evaluating, generating and saving KV caches.

A conversation goes on turn after turn; in each, the engine is killed at a random moment, often just after the
answer, while its state is being saved. The next engine has to give the answer that an undisturbed one gave.
At the end nothing may be left that is no whole state, once it is old enough to be swept.

    python stress/kv_kills.py MODEL.gguf [--kills 100]
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from threading import Timer

sys.path.insert(1, str(Path(__file__).parents[1] / "benchmarks"))

import psutil
from common import say
from kv_engine import ask_engine, engine_keeping

from phichat.engine.kv_store import COMPLETE_SUFFIX, KvStore
from phichat.errors import EngineError
from phichat.types import Message, Role

_ASKED = ("What sailed?", "Where did it go?", "Who knew?", "Why?")
_STORY = "Once upon a time there was a ship that sailed to the end of the sea, and nobody knew when it would return. "

_SAVING_S = 1.5
"""After an answer, until its state is written."""


def main() -> None:
    """Kill and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    given = parser.parse_args()
    chance = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="phichat-benchmark-") as name:
        folder = Path(name)
        talks = []
        began = time.monotonic()
        with engine_keeping(given.model, folder, folder / "none", 0) as engine:
            talk: list[Message] = []
            for asked in _ASKED:
                talk = [*talk, Message(Role.USER, asked if talk else _STORY * 12 + asked)]
                text = ask_engine(engine, talk, 8).text
                talks.append((talk, text))
                talk = [*talk, Message(Role.ASSISTANT, text)]
        took = time.monotonic() - began
        wrong = killed = answered = resumed = 0
        states = KvStore(folder / "states")
        while killed < given.kills:
            messages, expected = talks[killed % len(talks)]
            with engine_keeping(given.model, folder, states.path) as engine:
                process = psutil.Process(engine.pid)
                timer = Timer(chance.uniform(0, took + _SAVING_S), _kill, (process,))
                timer.start()
                with suppress(EngineError):
                    answer = ask_engine(engine, messages, 8)
                    answered += 1
                    wrong += answer.text != expected
                    resumed += answer.usage.cached_tokens > 100
                timer.join()
            killed += 1
        left = [file for file in states.list_files() if file.path.suffix != COMPLETE_SUFFIX]
        for file in left:
            os.utime(file.path, (0, 0))
        states.remove_stale()
        swept = all(file.path.suffix == COMPLETE_SUFFIX for file in states.list_files())
        say(f"{killed} kills, {answered} of them after an answer, for {resumed} of which a state was brought back")
        say(f"{wrong} answers were wrong; {len(left)} unfinished files, swept: {swept}")
        if wrong or not swept:
            raise SystemExit(1)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.Error):
        process.kill()


if __name__ == "__main__":
    main()
