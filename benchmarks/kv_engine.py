"""Engine processes that save KV caches, for the benchmarks about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.kv_store import KvStore
from phichat.engine.local import LocalBackend
from phichat.events import TurnFinished
from phichat.types import Message, SamplingParams


@contextmanager
def engine_keeping(model: Path, folder: Path, kept: Path, budget: int = 10**10) -> Iterator[LocalBackend]:
    """An engine that has left, and written all it wanted to, when the block ends."""
    verdicts, states = ProbeCache(folder / "engine.json"), KvStore(kept, budget)
    engine = LocalBackend(model.stem, model, EngineOptions(ctx_size=4096), verdicts, kv_store=states)
    for _ in engine.load(CancelToken()):
        pass
    process = psutil.Process(engine.pid)
    yield engine
    engine.close()
    process.wait(60)


def ask_engine(engine: LocalBackend, messages: list[Message], most: int, owner: str = "talk") -> TurnFinished:
    *_, last = engine.generate(messages, SamplingParams(temperature=0, max_tokens=most), CancelToken(), owner)
    assert isinstance(last, TurnFinished)
    return last
