"""The engine process seen from outside: started, listened to with deadlines, and explained when it dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Pipe, wait
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
    OfSample,
    Proving,
    Rendering,
    Reply,
    Request,
    Said,
    Sampled,
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

_FINAL = (Hello, Loaded, Counted, Generated, Sampled, Benched, Failed)
"""The replies that end a request."""

_BYTES_PER_S = 100_000_000
"""The slowest disk that a model is expected on."""


_FAULTS = frozenset(
    {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE")}
    | {0xC0000005, 0xC000001D, 0xC0000094}  # Windows: access violation, illegal instruction, division
)
"""How a process ends that the CPU refused an instruction or an address."""

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


class EngineProcess:
    """One child, started with spawn semantics: nothing of this process is in it but one connection.

    Raises EngineCrashed when the system cannot start it.
    """

    def __init__(self, deadlines: Deadlines, command: Sequence[str] = WORKER) -> None:
        self.deadlines = deadlines
        self._doing = Doing.STARTING
        ours, theirs = Pipe(duplex=True)
        self._connection: Any = ours
        handle = theirs.fileno()
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
                special = {"pass_fds": (handle,), "start_new_session": True}
            self._child: subprocess.Popen[bytes] = subprocess.Popen(
                [*command, str(handle)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
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
        assert self._child.stderr is not None
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

    def ask(self, request: Request, cancel: Cancel) -> Iterator[Reply]:
        """The replies to one request, the final one last.

        When `cancel` is set and the child does not end the request in time, it is killed and the
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
        rescue = Timer(self.deadlines.stall, self._child.kill)
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
                self.kill()

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
                    self.kill()
                    if not told:
                        raise self._stuck(allowed)
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

    def _stderr(self) -> str:
        return b"".join(self._last_words).decode("utf-8", "replace").strip()

    def _stuck(self, seconds: float) -> EngineTimedOut:
        return EngineTimedOut(
            f"The engine gave no sign of life for {seconds:.0f} s while {self._doing}",
            what_to_try(self._doing),
            detail=self._stderr(),
        )

    def _crashed(self) -> EngineCrashed:
        """What the death of the child means."""
        try:
            code = self._child.wait(2)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        words = self._stderr()
        return explain_death(code, self._doing, words)


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
