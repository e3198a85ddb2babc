"""Engines that stay, in a home of the test's own."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from phichat.config import EngineOptions
from phichat.engine.cancel import Cancel
from phichat.engine.link import Deadlines
from phichat.engine.local import LocalBackend
from phichat.engine.process import EngineProcess
from phichat.engine.resident.address import Address, Engines
from phichat.engine.resident.backend import ResidentBackend
from phichat.engine.resident.condition import engine_process
from phichat.engine.resident.listing import residents, stop
from phichat.engine.verdicts import Verdicts
from phichat.events import ModelReady, TurnFinished
from phichat.messages import GenerationParams, Message, Role

OPTIONS = EngineOptions(ctx_size=512, threads=1)
HELLO = [Message(Role.USER, "Hello there")]
GREEDY = GenerationParams(temperature=0.0, max_tokens=8)
ENDLESS = GenerationParams(temperature=0.0, max_tokens=400, stop=("\0",))


class Home:
    """A home, and ways to get at its engines."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        engines = Engines.of(cache, {})
        assert engines is not None
        self.engines = engines

    def address(self, model: Path) -> Address:
        return self.engines.address(model, OPTIONS)

    def backend(self, model: Path, keep_alive: float = 60) -> ResidentBackend:
        def local(start: Callable[[Deadlines, int], EngineProcess] | None) -> LocalBackend:
            return LocalBackend(model.stem, model, OPTIONS, Verdicts(self.cache / "engine.json"), start=start)

        return ResidentBackend(model.stem, model, self.address(model), keep_alive, local, Deadlines(), lambda: 1000)

    def pids(self) -> list[int]:
        return [one.pid for one in residents(self.engines)]

    def used_once(self, model: Path, keep_alive: float = 60) -> int:
        """Start an engine that stays, leave it, and tell its process id."""
        engine = self.backend(model, keep_alive)
        load(engine)
        engine.close()
        (pid,) = self.pids()
        return pid


@contextmanager
def home(cache: Path) -> Iterator[Home]:
    """No engine of it survives."""
    made = Home(cache)
    try:
        yield made
    finally:
        there = made.engines.all()
        for address in there:
            stop(address)
        assert [address for address in there if engine_process(address)] == []


def load(engine: ResidentBackend) -> ModelReady | None:
    """What was ready; None when it was there already."""
    last = None
    for event in engine.load(Cancel()):
        last = event
    assert last is None or isinstance(last, ModelReady)
    return last


def answer(engine: ResidentBackend, params: GenerationParams = GREEDY) -> TurnFinished:
    *_, last = engine.generate(HELLO, params, Cancel())
    assert isinstance(last, TurnFinished)
    return last


def becomes(true: Callable[[], bool], within_s: float = 8.0) -> bool:
    """Whether it does, in that time."""
    until = time.monotonic() + within_s
    while not (is_true := true()) and time.monotonic() < until:
        time.sleep(0.05)
    return is_true
