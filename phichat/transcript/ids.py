"""Names of conversations and turns: short, and in the order of time."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no letter that is read as a digit or as another letter."""

_TIME, _CHANCE = 9, 5
"""Letters for the milliseconds since 1970 (enough until the year 3084) and for telling apart what they do not."""


def new_id(when: datetime) -> str:
    """An id that sorts by `when`, among others at least a millisecond away."""
    chance = int.from_bytes(os.urandom(4), "big") % (1 << 5 * _CHANCE)
    number = max(0, int(when.timestamp() * 1000)) << 5 * _CHANCE | chance
    return "".join(_ALPHABET[number >> 5 * at & 31] for at in reversed(range(_TIME + _CHANCE)))


def ascending_ids() -> Callable[[datetime], str]:
    """Like `new_id`, each id after the one before it, whatever the times: for the turns of a conversation."""
    last = ""

    def following(when: datetime) -> str:
        nonlocal last
        made = new_id(when)
        if made <= last:
            made = _after(last)
        last = made
        return made

    return following


def _after(letters: str) -> str:
    """The next id in the order."""
    stem = letters.rstrip("z")
    return stem[:-1] + _ALPHABET[_ALPHABET.index(stem[-1]) + 1] + "0" * (len(letters) - len(stem))
