"""At the door of an engine that stays: whether somebody answers, and what is the matter when nobody does."""

from __future__ import annotations

import contextlib
import socket
import sys
from enum import Enum
from time import monotonic
from typing import Any

from phichat.engine import protocol
from phichat.engine.cancel import Cancel
from phichat.engine.protocol import AtTheDoor, Reply
from phichat.engine.resident.address import Address
from phichat.engine.resident.condition import Condition, condition, end
from phichat.engine.wires import SocketConnection, wait

_ANSWER_S = 0.7
"""An engine answers the door from a thread of its own, also while it computes."""
_START_S = 30.0
"""An engine that has just been started comes to the door within this time, on any machine."""


class Absence(Enum):
    """Why nobody answers."""

    NOBODY = "nobody"
    """There is no engine, or no more."""
    SLOW = "slow"
    """There is one, and it is too busy to answer soon."""
    CANCELLED = "cancelled"
    """It was not waited for."""


def connected(address: Address) -> Any | None:
    """A connection to who listens there; None where nobody does. Raises OSError, TimeoutError among them."""
    try:
        if sys.platform == "win32":
            from multiprocessing.connection import Client

            return Client(address.socket, authkey=address.key.read_bytes())
        with contextlib.ExitStack() as failed:
            ours = failed.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            ours.settimeout(_ANSWER_S)
            ours.connect(address.socket)
            ours.settimeout(None)
            failed.pop_all()
            return SocketConnection(ours)
    except (FileNotFoundError, ConnectionError, EOFError):
        return None


def knock(address: Address, request: AtTheDoor, cancel: Cancel) -> tuple[Any, Reply] | Absence:
    """The connection and the first answer. An engine that is stuck is killed and then counts as none.

    Raises OSError where the address cannot be used.
    """
    begun = monotonic()
    with contextlib.ExitStack() as hanging:
        try:
            connection = connected(address)
            if connection is None:
                return Absence.NOBODY
            hanging.callback(connection.close)
            protocol.send(connection, request)
            waited_for = [connection, cancel]
        except TimeoutError:  # so many wait at the door that the system lets nobody in
            connection, waited_for = None, [cancel]
        except ConnectionError:
            return Absence.NOBODY
        while True:
            arrived = wait(waited_for, _ANSWER_S if connection else 0)
            if connection and connection in arrived:
                try:
                    reply = protocol.receive(connection)
                except (EOFError, OSError):
                    return Absence.NOBODY
                hanging.pop_all()
                return connection, reply
            if arrived:
                return Absence.CANCELLED
            match condition(address):
                case Condition.STUCK:
                    end(address)
                    return Absence.NOBODY
                case Condition.ABSENT | Condition.NEW if connection and monotonic() - begun < _START_S:
                    continue
                case _:
                    return Absence.SLOW
