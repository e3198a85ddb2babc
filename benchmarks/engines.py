"""Engine processes that keep KV states, for the benchmarks about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from phichat.config import EngineOptions
from phichat.engine.cancel import Cancel
from phichat.engine.local import LocalBackend
from phichat.engine.states import StateFolder
from phichat.engine.verdicts import Verdicts
from phichat.events import TurnFinished
from phichat.messages import GenerationParams, Message


@contextmanager
def engine_keeping(model: Path, folder: Path, kept: Path, budget: int = 10**10) -> Iterator[LocalBackend]:
    """An engine that has left, and written all it wanted to, when the block ends."""
    verdicts, states = Verdicts(folder / "engine.json"), StateFolder(kept, budget)
    engine = LocalBackend(model.stem, model, EngineOptions(ctx_size=4096), verdicts, states=states)
    for _ in engine.load(Cancel()):
        pass
    process = psutil.Process(engine.pid)
    yield engine
    engine.close()
    process.wait(60)


def ask_engine(engine: LocalBackend, messages: list[Message], most: int, owner: str = "talk") -> TurnFinished:
    *_, last = engine.generate(messages, GenerationParams(temperature=0, max_tokens=most), Cancel(), owner)
    assert isinstance(last, TurnFinished)
    return last
