"""Daemons in a cache folder of the test's own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
from phichat.engine.daemon.backend import DaemonBackend
from phichat.engine.daemon.process_health import find_process
from phichat.engine.daemon.registry import DaemonAddress, DaemonRegistry
from phichat.engine.daemon.running_engines import list_running, stop_engine
from phichat.engine.ipc.connection import EngineTimeouts
from phichat.engine.ipc.process import EngineProcess
from phichat.engine.local import LocalBackend
from phichat.events import ModelReady, TurnFinished
from phichat.types import Message, Role, SamplingParams

OPTIONS = EngineOptions(ctx_size=512, threads=1)
HELLO = [Message(Role.USER, "Hello there")]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)
ENDLESS = SamplingParams(temperature=0.0, max_tokens=400, stop=("\0",))


class Home:
    """A cache folder, and access to its daemons."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        engines = DaemonRegistry.for_cache(cache, {})
        assert engines is not None
        self.engines = engines

    def address(self, model: Path) -> DaemonAddress:
        return self.engines.make_address(model, OPTIONS)

    def backend(self, model: Path, keep_alive: float = 60) -> DaemonBackend:
        def local(start: Callable[[EngineTimeouts, int], EngineProcess] | None) -> LocalBackend:
            return LocalBackend(model.stem, model, OPTIONS, ProbeCache(self.cache / "engine.json"), start_process=start)

        return DaemonBackend(model.stem, model, self.address(model), keep_alive, local, lambda: 1000)

    def pids(self) -> list[int]:
        return [one.pid for one in list_running(self.engines)]

    def used_once(self, model: Path, keep_alive: float = 60) -> int:
        """Start a daemon or connect to it, disconnect, and return its process id."""
        engine = self.backend(model, keep_alive)
        load(engine)
        engine.close()
        (pid,) = self.pids()
        return pid


@contextmanager
def home(cache: Path) -> Iterator[Home]:
    """Yield a home, and end all its daemons after the test."""
    made = Home(cache)
    try:
        yield made
    finally:
        there = made.engines.list_addresses()
        for address in there:
            stop_engine(address)
        assert [address for address in there if find_process(address)] == []


def load(engine: DaemonBackend) -> ModelReady | None:
    """Load a model; return the last event, None if the model was loaded already."""
    last = None
    for event in engine.load(CancelToken()):
        last = event
    assert last is None or isinstance(last, ModelReady)
    return last


def answer(engine: DaemonBackend, params: SamplingParams = GREEDY) -> TurnFinished:
    *_, last = engine.generate(HELLO, params, CancelToken())
    assert isinstance(last, TurnFinished)
    return last


def becomes(condition: Callable[[], bool], within_s: float = 120.0) -> bool:
    """Wait until a condition holds; return False if it does not in that time, long enough for a busy machine."""
    deadline = time.monotonic() + within_s
    while not (holds := condition()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds
