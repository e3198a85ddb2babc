"""A connection to an engine process: listened to with deadlines, and its end explained."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

from phichat.engine import protocol
from phichat.engine.cancel import Cancel
from phichat.engine.protocol import (
    Counted,
    Evaluating,
    Failed,
    Failure,
    Generated,
    Hello,
    Loaded,
    Loading,
    Measurement,
    OfSample,
    Proving,
    Rendering,
    Reply,
    Request,
    Said,
    Sampled,
    Staying,
)
from phichat.engine.wires import wait
from phichat.errors import EngineCrashed, EngineTimedOut

_FINAL = (Hello, Loaded, Counted, Generated, Sampled, Measurement, Failed, Staying)
"""The replies that end a request."""

_BYTES_PER_S = 100_000_000
"""The slowest disk that a model is expected on."""


_FAULTS = frozenset(
    {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE")}
    | {0xC0000005, 0xC000001D, 0xC0000094}  # Windows: access violation, illegal instruction, division
)
"""How a process ends that the CPU refused an instruction or an address."""

_LAST_WORDS = 1 << 16
"""Bytes of a log that are looked at."""

_TOKENIZED_BYTES_PER_S = 500_000
"""The slowest that a tokenizer is expected to be, on one endless word; it gives no sign of life meanwhile."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds without any sign of life after which the engine counts as stuck.

    Loading and evaluating get the time on top that bringing the whole model in from a slow disk takes,
    for both may have to do just that.
    """

    start: float = 30.0
    template: float = 8.0
    stall: float = 12.0
    cancel: float = 0.5

    def for_model(self, size: int) -> Deadlines:
        """The same for a model that takes `size` bytes of memory."""
        return Deadlines(self.start, self.template, self.stall + size / _BYTES_PER_S, self.cancel)


class Doing(StrEnum):
    """What an engine process was last heard to be doing."""

    STARTING = "starting"
    LOADING = "loading the model"
    PROVING = "trying the model on this CPU"
    RENDERING = "rendering the model's chat template"
    READING = "reading the prompt"
    GENERATING = "generating"
    MEASURING = "measuring"


class EngineLink(ABC):
    """A connection to an engine process: requests go out, and what comes back is waited for with deadlines."""

    def __init__(self, deadlines: Deadlines, connection: Any) -> None:
        self.deadlines = deadlines
        self._connection = connection
        self._doing = Doing.STARTING

    @property
    @abstractmethod
    def alive(self) -> bool:
        """Whether the engine can be asked something."""

    @abstractmethod
    def give_up(self) -> None:
        """Nothing of the engine is waited for any more."""

    @abstractmethod
    def kill(self) -> None:
        """The engine is stuck, and has to be gone."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be asked."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Make a sending that hangs fail, from any thread."""

    @abstractmethod
    def _crashed(self) -> EngineCrashed:
        """What the end of the connection means."""

    @abstractmethod
    def _stderr(self) -> str:
        """The engine's last words."""

    def ask(self, request: Request, cancel: Cancel) -> Iterator[Reply]:
        """The replies to one request, the final one last.

        When `cancel` is set and the engine does not end the request in time, the link is given up and the
        last reply is a Failed with CANCELLED; `alive` tells. Raises EngineCrashed and EngineTimedOut.
        """
        match request:
            case protocol.Load():
                self._doing = Doing.LOADING
            case protocol.Measure():
                self._doing = Doing.MEASURING
            case _:
                self._doing = Doing.READING
        # A process that does not read would keep a long request from being sent for ever.
        rescue = Timer(self.deadlines.stall, self._interrupt)
        rescue.start()
        try:
            size = protocol.send(self._connection, request)
        except OSError as why:
            raise self._crashed() from why
        finally:
            rescue.cancel()
        stall = self.deadlines.stall + size / _TOKENIZED_BYTES_PER_S
        answered = False
        try:
            for reply in self._replies(stall, cancel):
                answered = isinstance(reply, _FINAL)
                yield reply
        finally:
            if not answered:
                # Nobody listens to the rest, and the next request must not be answered by it.
                self.give_up()

    def _replies(self, stall: float, cancel: Cancel) -> Iterator[Reply]:
        allowed = stall
        told = False
        until = monotonic() + allowed
        while True:
            if not told and cancel.is_set():
                told = True
                until = monotonic() + self.deadlines.cancel
                with contextlib.suppress(OSError):
                    protocol.send(self._connection, protocol.Cancel())
            # What has arrived is looked at before the clock: this process may have been the slow one.
            overdue = monotonic() >= until
            try:
                waited_for = [self._connection] if told else [self._connection, cancel]
                arrived = wait(waited_for, max(0.0, until - monotonic()))
                if overdue and (told or not arrived):
                    if not told:
                        self.kill()
                        raise self._stuck(allowed)
                    self.give_up()
                    yield Failed(Failure.CANCELLED, "cancelled")
                    return
                if self._connection not in arrived:
                    continue
                reply: Reply = protocol.receive(self._connection)
            except (EOFError, OSError) as why:
                raise self._crashed() from why
            allowed = stall
            match reply:
                case Rendering():
                    allowed, self._doing = self.deadlines.template, Doing.RENDERING
                case Evaluating():
                    self._doing = Doing.READING
                case Said() | OfSample():
                    self._doing = Doing.GENERATING
                case Proving():
                    self._doing = Doing.PROVING
                case Loading():
                    self._doing = Doing.LOADING
                case _:
                    pass
            yield reply
            if not told:
                until = monotonic() + allowed
            if isinstance(reply, _FINAL):
                return

    def _stuck(self, seconds: float) -> EngineTimedOut:
        return EngineTimedOut(
            f"The engine gave no sign of life for {seconds:.0f} s while {self._doing}",
            what_to_try(self._doing),
            detail=self._stderr(),
        )


def last_words(log: Path) -> str:
    """The end of what an engine wrote to its log, "" when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_WORDS))
            return file.read(_LAST_WORDS).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def explain_death(code: int | None, doing: Doing, stderr: str) -> EngineCrashed:
    """The error for a child that ended with `code` (as subprocess gives it) while `doing` something."""
    assertion = re.search(
        r"^.*(GGML_ASSERT\(.*?\) failed|terminate called.*|\S*: fatal error.*)$", stderr, re.MULTILINE
    )
    last = (stderr.splitlines() or [""])[-1].strip()
    said = assertion.group(1) if assertion else ""
    if "bad_alloc" in stderr:
        return EngineCrashed(
            f"The engine ran out of memory while {doing}", "try a smaller --ctx-size or a smaller model", detail=stderr
        )
    if code is None or code >= 0:
        ended = "closed its connection" if code is None else f"ended with code {code}"
        said = said or last
    elif -code == getattr(signal, "SIGKILL", 9):
        return EngineCrashed(
            f"The engine was killed while {doing}, by someone or by the system because memory ran out",
            "ask again, with a smaller --ctx-size or model if it was memory",
            detail=stderr,
        )
    else:
        ended = f"crashed ({_signal_name(-code)})"
    because = f": {said}" if said else ""
    return EngineCrashed(
        f"The engine {ended} while {doing}{because}", what_to_try(doing), detail=stderr, is_fault=code in _FAULTS
    )


def what_to_try(doing: Doing) -> str:
    """The next step after a failure: what fails with the file itself fails again."""
    match doing:
        case Doing.LOADING | Doing.PROVING:
            return "try another copy of the file, and see what `phichat doctor` says"
        case Doing.RENDERING:
            return "try another model, or another copy of this one"
        case _:
            return "ask again; a new engine will be started"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
