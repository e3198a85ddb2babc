"""The engines of this home that stay: what they are at, and asking them to leave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from phichat.engine import protocol
from phichat.engine.cancel import Cancel
from phichat.engine.protocol import Card, State
from phichat.engine.resident.address import Address, Engines
from phichat.engine.resident.condition import end, engine_process, is_gone
from phichat.engine.resident.knocking import Absence, connected, knock

_SAVING_S = 4.0
"""Longer than an engine takes, or is given, to keep its states."""


@dataclass(frozen=True, slots=True)
class Resident:
    """An engine that is there. state: None where it is too busy to answer."""

    address: Address
    pid: int
    state: State | None

    @property
    def card(self) -> Card | None:
        """What is known of its model; None while it loads, too."""
        return self.state.card if self.state else None

    @property
    def model(self) -> str:
        """The name of its model, "" when it is not known."""
        return self.card.model.name if self.card else ""


def residents(engines: Engines) -> Iterator[Resident]:
    """Those that are there now. One that is stuck is killed; what dead ones have left is cleared away."""
    for address in engines.all():
        with contextlib.suppress(OSError):
            found = knock(address, protocol.Inquiry(), Cancel())
            if not isinstance(found, Absence):
                connection, state = found
                connection.close()
                if isinstance(state, State):
                    yield Resident(address, state.pid, state)
            elif found is Absence.NOBODY:
                _clear(address)
            elif process := engine_process(address):
                yield Resident(address, process.pid, None)


def _clear(address: Address) -> None:
    with address.locked(patience_s=0) as alone:
        if alone and connected(address) is None:
            address.clear()


def stop(address: Address) -> None:
    """Whatever it has to do, the engine there ends."""
    if not _left(address, at_once=True):
        end(address)


def make_room(engines: Engines, but: Address | None) -> bool:
    """Ask the engines that nobody uses to leave, all but that one; whether any did."""
    left = False
    for idle in residents(engines):
        if idle.address != but and idle.state and idle.state.card and not idle.state.clients:
            left = _left(idle.address, at_once=False) or left
    return left


def _left(address: Address, *, at_once: bool) -> bool:
    """Whether the engine there leaves: its connections end when its memory is free."""
    try:
        found = knock(address, protocol.Leave(at_once), Cancel())
    except OSError:
        return False
    if not isinstance(found, Absence):
        found[0].close()
        return False
    # One that keeps its states first does not answer meanwhile.
    return found is Absence.NOBODY or is_gone(address, _SAVING_S)
