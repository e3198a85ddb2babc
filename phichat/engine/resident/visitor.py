"""A connection to an engine that stays."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Generator
from time import monotonic
from typing import Any

from phichat.engine import protocol
from phichat.engine.cancel import Cancel
from phichat.engine.link import Deadlines, EngineLink, explain_death, last_words
from phichat.engine.protocol import Card, Loading, Reply
from phichat.engine.resident.address import Address
from phichat.engine.resident.condition import end
from phichat.engine.wires import wait
from phichat.errors import EngineCrashed

_LEAVING_S = 2.0
_LOADING_S = 120.0
"""Without progress: whoever started the engine may have been stopped."""


class Visitor(EngineLink):
    """One of the clients of an engine, from its card on."""

    def __init__(self, deadlines: Deadlines, connection: Any, address: Address, card: Card) -> None:
        super().__init__(deadlines.for_model(card.memory), connection)
        self._address = address
        self.card = card

    @property
    def alive(self) -> bool:
        """Whether the engine is there; it says nothing unasked, so what can be read is its end."""
        try:
            return not self._connection.closed and not self._connection.poll()
        except OSError:
            return False

    def close(self) -> None:
        """Go; the engine stays for a while."""
        self._connection.close()

    def dismiss(self) -> None:
        """Go, and let the engine go too if nobody else is there."""
        with contextlib.suppress(EOFError, OSError):
            protocol.send(self._connection, protocol.Leave(at_once=False))
            if wait([self._connection], _LEAVING_S):
                protocol.receive(self._connection)
        self.close()

    def give_up(self) -> None:
        # Others may be waiting for its answers.
        self.close()

    def kill(self) -> None:
        end(self._address)
        self.close()

    def _interrupt(self) -> None:
        if sys.platform == "win32":
            self._connection.close()
        else:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)

    def _crashed(self) -> EngineCrashed:
        self.close()
        return explain_death(None, self._doing, self._stderr())

    def _stderr(self) -> str:
        return last_words(self._address.log)


def until_loaded(connection: Any, reply: Reply, cancel: Cancel) -> Generator[float, None, Reply | None]:
    """The fraction loaded, again and again; then what is said at last: a Card, or something else where there is no
    coming in. None when the engine died, or when cancelled.
    """
    changed_at = monotonic()
    waited_for: list[Any] = [connection, cancel]
    while isinstance(reply, Loading) and monotonic() - changed_at < _LOADING_S:
        yield reply.fraction
        before = reply
        try:
            # The engine's own supervisor sees to it that loading ends.
            if connection not in wait(waited_for):
                return None
            reply = protocol.receive(connection)
        except (EOFError, OSError):
            return None
        if reply != before:
            changed_at = monotonic()
    return reply
