"""A connection to an engine that stays."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Generator
from time import monotonic
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.daemon.process_health import kill
from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.ipc.connection import EngineConnection, EngineTimeouts, make_crash_error, read_log_tail
from phichat.engine.ipc.framing import wait
from phichat.engine.ipc.protocol import EngineReply, LoadedModelInfo, LoadProgress
from phichat.errors import EngineCrashed

_SHUTDOWN_TIMEOUT_S = 2.0
_LOAD_STALL_TIMEOUT_S = 120.0
"""Without progress: whoever started the engine may have been stopped."""


class DaemonClient(EngineConnection):
    """One of the clients of an engine, from its card on."""

    def __init__(
        self, timeouts: EngineTimeouts, connection: Any, address: DaemonAddress, loaded_model: LoadedModelInfo
    ) -> None:
        super().__init__(timeouts.for_model(loaded_model.memory), connection)
        self._address = address
        self.loaded_model = loaded_model

    @property
    def is_alive(self) -> bool:
        """Whether the engine is there; it says nothing unasked, so what can be read is its end."""
        try:
            return not self._connection.closed and not self._connection.poll()
        except OSError:
            return False

    def close(self) -> None:
        """Go; the engine stays for a while."""
        self._connection.close()

    def release(self) -> None:
        """Go, and let the engine go too if nobody else is there."""
        with contextlib.suppress(EOFError, OSError):
            protocol.send(self._connection, protocol.Shutdown(force=False))
            if wait([self._connection], _SHUTDOWN_TIMEOUT_S):
                protocol.receive(self._connection)
        self.close()

    def abandon(self) -> None:
        # Others may be waiting for its answers.
        self.close()

    def kill(self) -> None:
        kill(self._address)
        self.close()

    def _interrupt(self) -> None:
        if sys.platform == "win32":
            self._connection.close()
        else:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    def _crash_error(self) -> EngineCrashed:
        self.close()
        return make_crash_error(None, self._phase, self._read_stderr())

    def _read_stderr(self) -> str:
        return read_log_tail(self._address.log_path)


def wait_until_loaded(
    connection: Any, reply: EngineReply, cancel: CancelToken
) -> Generator[float, None, EngineReply | None]:
    """The fraction loaded, again and again; then what is said at last: a Card, or something else where there is no
    coming in. None when the engine died, or when cancelled.
    """
    changed_at = monotonic()
    waitables: list[Any] = [connection, cancel]
    while isinstance(reply, LoadProgress) and monotonic() - changed_at < _LOAD_STALL_TIMEOUT_S:
        yield reply.fraction
        previous = reply
        try:
            # The engine's own supervisor sees to it that loading ends.
            if connection not in wait(waitables):
                return None
            reply = protocol.receive(connection)
        except (EOFError, OSError):
            return None
        if reply != previous:
            changed_at = monotonic()
    return reply
