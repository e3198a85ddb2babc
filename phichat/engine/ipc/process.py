"""Engine process as a child of this process: start, handshake, end."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from multiprocessing.connection import Pipe
from pathlib import Path
from threading import Thread
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc.connection import EngineConnection, EngineTimeouts, read_log_tail
from phichat.engine.ipc.protocol import EngineInfo, ErrorCode, ErrorReply
from phichat.errors import EngineCrashed, EngineError

WORKER_COMMAND = (sys.executable, "-P", "-m", "phichat.engine.worker")
"""Command that starts an engine process; the handle of its connection is its argument."""

SPIN_COUNT_VARIABLE = "GOMP_SPINCOUNT"
"""Environment variable: iterations that GNU's OpenMP spins at a barrier before it sleeps."""

DEFAULT_SPIN_COUNT = 1000
"""OpenMP's own default of 300,000 starves the very thread it waits for as soon as another program needs a core.
On two cores with one of them busy, a 135M model generated 1 to 5 tokens a second with that and 35 with this, a
3.8B one 4 at 10,000 and 10 with this; on idle cores it costs 1 to 4 %. At 100 idle cores lose half of their speed.
`bench --tune` measures the best value for a machine."""

_EXIT_TIMEOUT_S = 0.05
"""Between the moment a process that ends closes its files, and the moment it has ended."""


class EngineProcess(EngineConnection):
    """Child process that inherits one pipe of this one and, for a daemon, its listening socket.

    spin_count: for OpenMP's barriers, unless the user's environment sets one. daemon_address: where it accepts further
    clients. listener_fd: descriptor of the socket that listens there; None where it makes its own.
    Raises EngineCrashed when the system cannot start it.
    """

    def __init__(
        self,
        timeouts: EngineTimeouts,
        command: Sequence[str] = WORKER_COMMAND,
        daemon_address: DaemonAddress | None = None,
        listener_fd: int | None = None,
        spin_count: int = DEFAULT_SPIN_COUNT,
    ) -> None:
        parent_end, child_end = Pipe(duplex=True)
        super().__init__(timeouts, parent_end)
        handle = child_end.fileno()
        inherited_fds = [handle] if listener_fd is None else [handle, listener_fd]
        arguments = [str(handle), *(["--daemon-socket", str(daemon_address.stem)] if daemon_address else [])]
        arguments += map(str, inherited_fds[1:])
        self._log_path = daemon_address.log_path if daemon_address else None
        platform_options: dict[str, Any]
        try:
            if sys.platform == "win32":
                os.set_handle_inheritable(handle, True)  # noqa: FBT003
                startup = subprocess.STARTUPINFO(lpAttributeList={"handle_list": [handle]})
                flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW
                platform_options = {"startupinfo": startup, "creationflags": flags}
            else:
                # A session of its own: Ctrl-C in the terminal is for the front end to interpret.
                platform_options = {"pass_fds": inherited_fds, "start_new_session": True}
            with _open_stderr(self._log_path) as stderr:
                self._child: subprocess.Popen[bytes] = subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    # Without the first, an abort would start a debugger.
                    env={"GGML_NO_BACKTRACE": "1", SPIN_COUNT_VARIABLE: str(spin_count), **os.environ},
                    **platform_options,
                )
        except OSError as error:
            parent_end.close()
            raise EngineCrashed(f"The engine process cannot be started ({error})", "Close other programs") from error
        finally:
            child_end.close()
        self._stderr_tail: deque[bytes] = deque(maxlen=40)
        self._stderr_thread = Thread(target=self._drain_stderr, daemon=True)
        self._stderr_thread.start()

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._child.pid

    def _drain_stderr(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            # Bounded lines: a child that writes without line ends must not fill the memory of this process.
            while self._child.stderr and (line := self._child.stderr.readline(4096)):
                self._stderr_tail.append(line)

    def handshake(self, cancel: CancelToken) -> EngineInfo | None:
        """Return the child's first message, None when cancelled. Raises EngineError."""
        for reply in self._receive_replies(self.timeouts.startup_s, cancel):
            match reply:
                case EngineInfo():
                    return reply
                case ErrorReply() if reply.code is not ErrorCode.CANCELLED:
                    self.kill()
                    raise EngineError(
                        f"llama.cpp's library cannot be loaded ({reply.message})",
                        "Reinstall llama-cpp-python for this machine",
                        detail=self._read_stderr(),
                    )
        return None

    @property
    def is_alive(self) -> bool:
        return self._child.poll() is None and not self._connection.closed

    def kill(self) -> None:
        """Kill the child and wait for its end."""
        with contextlib.suppress(OSError):
            self._child.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(2)
        self._close_pipes()

    abandon = kill

    def close(self) -> None:
        """Close the connection, on which the child ends.
        A child that has KV caches to save closes its stderr first and writes them without this process."""
        self._connection.close()
        self._stderr_thread.join(0.5)
        if self._stderr_thread.is_alive():
            self.kill()
        try:
            self._child.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            Thread(target=self._child.wait, daemon=True).start()  # so that it leaves no zombie
        self._close_pipes()

    def _close_pipes(self) -> None:
        self._connection.close()
        self._stderr_thread.join(0.2)
        if self._child.stderr and not self._stderr_thread.is_alive():
            self._child.stderr.close()

    def detach(self) -> None:
        """Let the child live on without this process."""
        self._connection.close()
        Thread(target=self._child.wait, daemon=True).start()

    def _interrupt(self) -> None:
        self._child.kill()

    def _read_stderr(self) -> str:
        if self._log_path is not None:
            return read_log_tail(self._log_path)
        return b"".join(self._stderr_tail).decode("utf-8", "replace").strip()

    def _reap(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(2)
        exit_code = self._child.returncode
        self.kill()
        return exit_code


def _open_stderr(path: Path | None) -> AbstractContextManager[Any]:
    """Create a file that only its owner can read, for appending; without a path, return subprocess.PIPE."""
    if path is None:
        return contextlib.nullcontext(subprocess.PIPE)
    path.unlink(missing_ok=True)
    return open(path, "ab", opener=lambda name, flags: os.open(name, flags | os.O_EXCL, 0o600))
