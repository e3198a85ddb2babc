"""Ids of conversations and turns: short, and sorted by time."""

import hashlib
import os
from collections.abc import Callable
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32: no letter that is read as a digit or as another letter."""

_TIME_LETTERS, _RANDOM_LETTERS, _ORIGIN_LETTERS = 9, 5, 16
"""Letters for the milliseconds since 1970 (enough until the year 3084), random ones, and for the hash of an origin."""


def new_id(created_at: datetime) -> str:
    """Return an id that sorts by time among ids at least a millisecond apart."""
    random_bits = int.from_bytes(os.urandom(4), "big") % (1 << 5 * _RANDOM_LETTERS)
    return _encode(_to_millis(created_at) << 5 * _RANDOM_LETTERS | random_bits, _RANDOM_LETTERS)


def make_ascending_ids() -> Callable[[datetime], str]:
    """Return a `new_id` whose ids always ascend, whatever the times: for the turns of a conversation."""
    last = ""

    def next_id(created_at: datetime) -> str:
        nonlocal last
        candidate = new_id(created_at)
        if candidate <= last:
            stem = last.rstrip("z")
            candidate = stem[:-1] + _ALPHABET[_ALPHABET.index(stem[-1]) + 1] + "0" * (len(last) - len(stem))
        last = candidate
        return candidate

    return next_id


def stable_id(created_at: datetime | None, *origin: str) -> str:
    """Return the id of something imported: the same each time, so that it is imported once.

    created_at: None where the source has no time; then every letter comes from the origin.
    """
    digest = hashlib.sha256("\0".join(origin).encode("utf-8", "surrogatepass")).digest()
    if created_at is None:
        return _encode(int.from_bytes(digest[:16], "big") >> 3, _ORIGIN_LETTERS)
    return _encode(_to_millis(created_at) << 5 * _ORIGIN_LETTERS | int.from_bytes(digest[:10], "big"), _ORIGIN_LETTERS)


def id_from_ulid(text: str) -> str | None:
    """Return the id for a ULID, None for any other text. A ULID's first letter is 0 until the year 3084."""
    is_ulid = len(text) == 26 and text[0] == "0" and all(letter in _ALPHABET for letter in text)
    return text[1:] if is_ulid else None


def _to_millis(time: datetime) -> int:
    return max(0, int(time.timestamp() * 1000))


def _encode(number: int, letters_after_time: int) -> str:
    positions = reversed(range(_TIME_LETTERS + letters_after_time))
    return "".join(_ALPHABET[number >> 5 * position & 31] for position in positions)
