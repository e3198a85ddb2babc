"""At the door of an engine that stays: whether somebody answers, and what is the matter when nobody does."""

from __future__ import annotations

import contextlib
import socket
import sys
from enum import Enum
from time import monotonic
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.daemon.process_health import ProcessHealth, check_health, kill
from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.ipc.framing import SocketConnection, wait
from phichat.engine.ipc.protocol import ControlRequest, EngineReply

_HANDSHAKE_TIMEOUT_S = 0.7
"""An engine answers the door from a thread of its own, also while it computes."""
_STARTUP_TIMEOUT_S = 30.0
"""An engine that has just been started comes to the door within this time, on any machine."""


class NoReply(Enum):
    """Why nobody answers."""

    NOT_RUNNING = "nobody"
    """There is no engine, or no more."""
    BUSY = "slow"
    """There is one, and it is too busy to answer soon."""
    CANCELLED = "cancelled"
    """It was not waited for."""


def open_connection(address: DaemonAddress) -> Any | None:
    """A connection to who listens there; None where nobody does. Raises OSError, TimeoutError among them."""
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


def send_control_request(
    address: DaemonAddress, request: ControlRequest, cancel: CancelToken
) -> tuple[Any, EngineReply] | NoReply:
    """The connection and the first answer. An engine that is stuck is killed and then counts as none.

    Raises OSError where the address cannot be used.
    """
    started_at = monotonic()
    with contextlib.ExitStack() as cleanup:
        try:
            connection = open_connection(address)
            if connection is None:
                return NoReply.NOT_RUNNING
            cleanup.callback(connection.close)
            protocol.send(connection, request)
            waitables = [connection, cancel]
        except TimeoutError:  # so many wait at the door that the system lets nobody in
            connection, waitables = None, [cancel]
        except ConnectionError:
            return NoReply.NOT_RUNNING
        while True:
            ready = wait(waitables, _HANDSHAKE_TIMEOUT_S if connection else 0)
            if connection and connection in ready:
                try:
                    reply = protocol.receive(connection)
                except (EOFError, OSError):
                    return NoReply.NOT_RUNNING
                cleanup.pop_all()
                return connection, reply
            if ready:
                return NoReply.CANCELLED
            match check_health(address):
                case ProcessHealth.HUNG:
                    kill(address)
                    return NoReply.NOT_RUNNING
                case ProcessHealth.NOT_RUNNING | ProcessHealth.STARTING if (
                    connection and monotonic() - started_at < _STARTUP_TIMEOUT_S
                ):
                    continue
                case _:
                    return NoReply.BUSY
