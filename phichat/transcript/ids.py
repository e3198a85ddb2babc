"""Ids of conversations and turns: short, and sorted by time."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no letter that is read as a digit or as another letter."""

_TIME_LETTERS, _RANDOM_LETTERS = 9, 5
"""Letters for the milliseconds since 1970 (enough until the year 3084), and random ones."""


def new_id(created_at: datetime) -> str:
    """Return an id that sorts by time among ids at least a millisecond apart."""
    random_bits = int.from_bytes(os.urandom(4), "big") % (1 << 5 * _RANDOM_LETTERS)
    number = max(0, int(created_at.timestamp() * 1000)) << 5 * _RANDOM_LETTERS | random_bits
    return "".join(
        _ALPHABET[number >> 5 * position & 31] for position in reversed(range(_TIME_LETTERS + _RANDOM_LETTERS))
    )


def make_ascending_ids() -> Callable[[datetime], str]:
    """Return a `new_id` whose ids always ascend, whatever the times: for the turns of a conversation."""
    last = ""

    def next_id(created_at: datetime) -> str:
        nonlocal last
        candidate = new_id(created_at)
        if candidate <= last:
            candidate = _increment_id(last)
        last = candidate
        return candidate

    return next_id


def _increment_id(letters: str) -> str:
    """Return the next id in sort order."""
    stem = letters.rstrip("z")
    return stem[:-1] + _ALPHABET[_ALPHABET.index(stem[-1]) + 1] + "0" * (len(letters) - len(stem))
