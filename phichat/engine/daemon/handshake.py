"""First request to a daemon, and the reason when none answers."""

from __future__ import annotations

import contextlib
import socket
import sys
from enum import Enum, auto
from time import monotonic
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.daemon.process_health import ProcessHealth, check_health, kill
from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.ipc.framing import SocketConnection, wait
from phichat.engine.ipc.protocol import ControlRequest, EngineReply, ProtocolError

_HANDSHAKE_TIMEOUT_S = 0.7
"""A daemon answers a first request from a thread of its own, also while it computes."""
_STARTUP_TIMEOUT_S = 30.0
"""A process that was just started listens within this time, on any machine."""


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


def send_control_request(
    address: DaemonAddress, request: ControlRequest, cancel: CancelToken
) -> tuple[Any, EngineReply] | NoReply:
    """Return a new connection and the first reply to the request. Kills a daemon that hangs.

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
