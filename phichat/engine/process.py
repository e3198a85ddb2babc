"""The engine process seen from outside: started, listened to with deadlines, and explained when it dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Pipe, wait
from pathlib import Path
from threading import Thread, Timer
from time import monotonic
from typing import Any

from phichat.engine import protocol
from phichat.engine.backend import Cancel
from phichat.engine.protocol import (
    Benched,
    Counted,
    Evaluating,
    Failed,
    Failure,
    Generated,
    Hello,
    Loaded,
    Loading,
    Proving,
    Rendering,
    Reply,
    Request,
    Said,
)
from phichat.errors import EngineCrashed, EngineError, EngineTimedOut

WORKER = (sys.executable, "-P", "-m", "phichat.engine.worker")
"""The command that starts an engine process; the handle of its connection is its argument."""

_ENVIRONMENT = {
    # An abort would start a debugger otherwise.
    "GGML_NO_BACKTRACE": "1",
    # How long GNU's OpenMP spins at a barrier before it sleeps. Its default of 300,000 starves the very
    # thread it waits for as soon as another program wants a core. On two cores with one of them busy, a
    # 135M model generated 1 to 5 tokens a second with the default and 35 with this, a 3.8B one 4 at 10,000
    # and 10 with this; on idle cores it costs 1 to 4 %. At 100 idle cores lose half of their speed.
    "GOMP_SPINCOUNT": "1000",
}

_FINAL = (Hello, Loaded, Counted, Generated, Benched, Failed)
"""The replies that end a request."""

_BYTES_PER_S = 100_000_000
"""The slowest disk that a model is expected on."""


_FAULTS = frozenset(
    {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE")}
    | {0xC0000005, 0xC000001D, 0xC0000094}  # Windows: access violation, illegal instruction, division
)
"""How a process ends that the CPU refused an instruction or an address."""

_LAST_WORDS = 1 << 16

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
            case protocol.Bench():
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
                case Said():
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


@dataclass(frozen=True, slots=True)
class Door:
    """Where others reach an engine that stays when its starter leaves.

    address: the path of its socket, or the name of its pipe. listener: the file descriptor of the socket, which
    listens already; None where the engine itself has to make it. log: a new file for its stderr.
    """

    address: str
    listener: int | None
    log: Path


class EngineProcess(EngineLink):
    """One child, started with spawn semantics: nothing of this process is in it but one connection, and the door.

    Raises EngineCrashed when the system cannot start it.
    """

    def __init__(self, deadlines: Deadlines, command: Sequence[str] = WORKER, door: Door | None = None) -> None:
        ours, theirs = Pipe(duplex=True)
        super().__init__(deadlines, ours)
        handle = theirs.fileno()
        handles = [handle] if door is None or door.listener is None else [handle, door.listener]
        arguments = [str(handle)]
        if door is not None:
            arguments += ["--door", door.address, *map(str, handles[1:])]
        self._log = door.log if door else None
        environment = {**_ENVIRONMENT, **os.environ}
        special: dict[str, Any]
        try:
            if sys.platform == "win32":
                os.set_handle_inheritable(handle, True)  # noqa: FBT003
                startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
                flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
                special = {"startupinfo": startup, "creationflags": flags}
            else:
                # A session of its own: Ctrl-C in the terminal is for the front end to interpret.
                special = {"pass_fds": tuple(handles), "start_new_session": True}
            with _private_file(self._log) as log:
                self._child: subprocess.Popen[bytes] = subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                    env=environment,
                    **special,
                )
        except OSError as why:
            ours.close()
            raise EngineCrashed(f"The engine process cannot be started ({why})", "close other programs") from why
        finally:
            theirs.close()
        self._last_words: deque[bytes] = deque(maxlen=40)
        self._drain = Thread(target=self._listen_to_stderr, daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._child.pid

    def _listen_to_stderr(self) -> None:
        if self._child.stderr is None:
            return
        with contextlib.suppress(ValueError, OSError):
            # Bounded lines: a child that shouts without line ends must not fill this process.
            while line := self._child.stderr.readline(4096):
                self._last_words.append(line)

    def hello(self, cancel: Cancel) -> Hello | None:
        """The child's first message; None when cancelled. Raises EngineError."""
        for reply in self._replies(self.deadlines.start, cancel):
            match reply:
                case Hello():
                    return reply
                case Failed():
                    self.kill()
                    raise EngineError(
                        f"llama.cpp's library cannot be loaded ({reply.message})",
                        "reinstall llama-cpp-python for this machine",
                        detail=self._stderr(),
                    )
        return None

    @property
    def alive(self) -> bool:
        """Whether the child can be asked something."""
        return self._child.poll() is None and not self._connection.closed

    def kill(self) -> None:
        """End the child now, and wait until it is gone."""
        with contextlib.suppress(OSError):
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(2)
        self._close()

    def close(self) -> None:
        """Let the child end: it does when the connection closes."""
        self._connection.close()
        try:
            self._child.wait(0.5)
        except subprocess.TimeoutExpired:
            self.kill()
        self._close()

    def _close(self) -> None:
        self._connection.close()
        self._drain.join(0.2)
        if self._child.stderr and not self._drain.is_alive():
            self._child.stderr.close()

    def leave(self) -> None:
        """Let the child stay without this process."""
        self._connection.close()
        Thread(target=self._child.wait, daemon=True).start()

    def give_up(self) -> None:
        self.kill()

    def _interrupt(self) -> None:
        self._child.kill()

    def _stderr(self) -> str:
        if self._log is not None:
            return last_words(self._log)
        return b"".join(self._last_words).decode("utf-8", "replace").strip()

    def _crashed(self) -> EngineCrashed:
        try:
            code = self._child.wait(2)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        words = self._stderr()
        return explain_death(code, self._doing, words)


@contextlib.contextmanager
def _private_file(path: Path | None) -> Iterator[int]:
    """A new file that only its owner reads, to be appended to; a pipe where there is no path."""
    if path is None:
        yield subprocess.PIPE
        return
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
    try:
        yield handle
    finally:
        os.close(handle)


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
