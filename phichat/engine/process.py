"""The engine process as a child of this one: started, and explained when it dies."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

from phichat.engine.cancel import Cancel
from phichat.engine.link import Deadlines, EngineLink, explain_death, last_words
from phichat.engine.protocol import Failed, Hello
from phichat.engine.resident.address import Address
from phichat.errors import EngineCrashed, EngineError

WORKER = (sys.executable, "-P", "-m", "phichat.engine.worker")
"""The command that starts an engine process; the handle of its connection is its argument."""

SPIN_VARIABLE = "GOMP_SPINCOUNT"
"""How long GNU's OpenMP spins at a barrier before it sleeps."""

USUAL_SPIN_COUNT = 1000
"""OpenMP's own default of 300,000 starves the very thread it waits for as soon as another program wants a core.
On two cores with one of them busy, a 135M model generated 1 to 5 tokens a second with that and 35 with this, a
3.8B one 4 at 10,000 and 10 with this; on idle cores it costs 1 to 4 %. At 100 idle cores lose half of their speed.
`bench --tune` measures what suits a machine."""

_ENVIRONMENT = {
    # An abort would start a debugger otherwise.
    "GGML_NO_BACKTRACE": "1",
}

_EXITING_S = 0.05
"""Between the moment a process that ends lets go of its files, and the moment it is gone."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where others reach an engine that stays when its starter leaves.

    listener: the file descriptor of a socket that listens there already; None where the engine makes its own.
    """

    address: Address
    listener: int | None


class EngineProcess(EngineLink):
    """One child, started with spawn semantics: nothing of this process is in it but one connection, and the door.

    spin_count: for OpenMP's barriers; one that the user has set comes before it.
    Raises EngineCrashed when the system cannot start it.
    """

    def __init__(
        self,
        deadlines: Deadlines,
        command: Sequence[str] = WORKER,
        door: Door | None = None,
        spin_count: int = USUAL_SPIN_COUNT,
    ) -> None:
        ours, theirs = Pipe(duplex=True)
        super().__init__(deadlines, ours)
        handle = theirs.fileno()
        handles = [handle] if door is None or door.listener is None else [handle, door.listener]
        arguments = [str(handle)]
        if door is not None:
            arguments += ["--door", str(door.address.stem), *map(str, handles[1:])]
        self._log = door.address.log if door else None
        environment = {**_ENVIRONMENT, SPIN_VARIABLE: str(spin_count), **os.environ}
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
        """Let the child end: it does when the connection closes.

        It lets go of its stderr first when it has KV states to write; that goes on without this process.
        """
        self._connection.close()
        self._drain.join(0.5)
        if self._drain.is_alive():
            self.kill()
        try:
            self._child.wait(_EXITING_S)
        except subprocess.TimeoutExpired:
            Thread(target=self._child.wait, daemon=True).start()  # so that it leaves no zombie
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
