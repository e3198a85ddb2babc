"""Client of a daemon: first request, the reason why there is no reply, and the connection after it."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from enum import Enum, auto
from time import monotonic
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.ipc.connection import EngineConnection, EngineTimeouts, read_log_tail
from phichat.engine.ipc.frames import SocketConnection, wait
from phichat.engine.ipc.protocol import ControlRequest, EngineReply, LoadedModelInfo, ProtocolError

_HANDSHAKE_TIMEOUT_S = 0.7
"""A daemon answers a first request from a thread of its own, also while it computes."""
_STARTUP_TIMEOUT_S = 30.0
"""A process that was just started listens within this time, on any machine."""
_SHUTDOWN_TIMEOUT_S = 2.0


class NoReply(Enum):
    """Reason why a daemon did not answer."""

    NOT_RUNNING = auto()
    BUSY = auto()
    """It runs, but is too busy to answer soon."""
    CANCELLED = auto()


def open_connection(address: DaemonAddress) -> Any | None:
    """Connect to a daemon, None where no process listens. Raises OSError, TimeoutError among them."""
    try:
        if sys.platform == "win32":
            from multiprocessing.connection import Client

            return Client(address.socket_path, authkey=address.key_path.read_bytes())
        with contextlib.ExitStack() as cleanup:
            sock = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.settimeout(_HANDSHAKE_TIMEOUT_S)
            sock.connect(address.socket_path)
            sock.settimeout(None)
            cleanup.pop_all()
            return SocketConnection(sock)
    except (FileNotFoundError, ConnectionError, EOFError):
        return None


def is_listening(address: DaemonAddress) -> bool:
    """Return whether a process listens, even if it is too busy to answer. Raises OSError as `open_connection` does."""
    try:
        connection = open_connection(address)
    except TimeoutError:
        return True
    if connection is not None:
        connection.close()
    return connection is not None


def send_control_request(
    address: DaemonAddress, request: ControlRequest, cancel: CancelToken
) -> tuple[Any, EngineReply] | NoReply:
    """Return a new connection and the first reply to the request. Kills a daemon that hangs.
    Raises OSError where the address cannot be used."""
    started_at = monotonic()
    with contextlib.ExitStack() as cleanup:
        try:
            if (connection := open_connection(address)) is None:
                return NoReply.NOT_RUNNING
            cleanup.callback(connection.close)
            protocol.send(connection, request)
            waitables = [connection, cancel]
        except TimeoutError:  # the system's queue of connections to be accepted is full
            connection, waitables = None, [cancel]
        except ConnectionError:
            return NoReply.NOT_RUNNING
        while True:
            ready = wait(waitables, _HANDSHAKE_TIMEOUT_S if connection else 0)
            if connection and connection in ready:
                try:
                    reply = protocol.receive_reply(connection)
                except ProtocolError:
                    return NoReply.BUSY
                except (EOFError, OSError):
                    return NoReply.NOT_RUNNING
                cleanup.pop_all()
                return connection, reply
            if ready:
                return NoReply.CANCELLED
            from phichat.engine.daemon.process_health import ProcessHealth, check_health, kill

            health = check_health(address)
            if health is ProcessHealth.HUNG:
                kill(address)
                return NoReply.NOT_RUNNING
            is_late = connection is None or monotonic() - started_at >= _STARTUP_TIMEOUT_S
            if health is ProcessHealth.BUSY or is_late:
                return NoReply.BUSY


class DaemonClient(EngineConnection):
    """One of the clients of a daemon, after the daemon has accepted it."""

    def __init__(self, connection: Any, address: DaemonAddress, loaded_model: LoadedModelInfo) -> None:
        super().__init__(EngineTimeouts().for_model(loaded_model.memory), connection)
        self._address, self.loaded_model = address, loaded_model

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

    # Other clients may be waiting for their replies: the daemon goes on.
    abandon = close

    def release(self) -> None:
        """Disconnect, and let the daemon exit if it has no other client."""
        with contextlib.suppress(EOFError, OSError):
            protocol.send(self._connection, protocol.Shutdown(force=False))
            if wait([self._connection], _SHUTDOWN_TIMEOUT_S):
                protocol.receive_reply(self._connection)
        self.close()

    def kill(self) -> None:
        from phichat.engine.daemon.process_health import kill

        kill(self._address)
        self.close()

    def _interrupt(self) -> None:
        if sys.platform == "win32":
            self._connection.close()
        else:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as sock:
                sock.shutdown(socket.SHUT_RDWR)

    _reap = close

    def _read_stderr(self) -> str:
        return read_log_tail(self._address.log_path)
