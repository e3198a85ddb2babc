"""Connection of a client to a daemon."""

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
"""Without progress: the process that launched the daemon may have been stopped."""


class DaemonClient(EngineConnection):
    """One of the clients of a daemon, after the daemon has accepted it."""

    def __init__(
        self, timeouts: EngineTimeouts, connection: Any, address: DaemonAddress, loaded_model: LoadedModelInfo
    ) -> None:
        super().__init__(timeouts.for_model(loaded_model.memory), connection)
        self._address = address
        self.loaded_model = loaded_model

    @property
    def is_alive(self) -> bool:
        # A daemon sends nothing unasked, so that only the end of the connection can be read here.
        try:
            return not self._connection.closed and not self._connection.poll()
        except OSError:
            return False

    def close(self) -> None:
        """Disconnect; the daemon keeps running for a while."""
        self._connection.close()

    def release(self) -> None:
        """Disconnect, and let the daemon exit if it has no other client."""
        with contextlib.suppress(EOFError, OSError):
            protocol.send(self._connection, protocol.Shutdown(force=False))
            if wait([self._connection], _SHUTDOWN_TIMEOUT_S):
                protocol.receive_reply(self._connection)
        self.close()

    def abandon(self) -> None:
        # Other clients may be waiting for their replies: the daemon goes on.
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
    """Yield the fraction loaded, starting with the first `reply` to a Connect, and return the last reply.

    That is LoadedModelInfo, or another one where the daemon does not accept this client; None when the daemon died,
    and when cancelled.
    """
    changed_at = monotonic()
    while isinstance(reply, LoadProgress) and monotonic() - changed_at < _LOAD_STALL_TIMEOUT_S:
        yield reply.fraction
        previous = reply
        try:
            # No timeout: the process that launched the daemon ends a load that hangs.
            if connection not in wait([connection, cancel]):
                return None
            reply = protocol.receive_reply(connection)
        except (EOFError, OSError):
            return None
        if reply != previous:
            changed_at = monotonic()
    return reply
