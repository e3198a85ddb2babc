"""Ids of imported conversations: reading a file twice gives the same ids, so that it is imported once."""

from __future__ import annotations

import hashlib
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_LETTERS, _ORIGIN_LETTERS = 9, 16
"""Letters for the milliseconds since 1970, as in phichat's own ids, and for the hash of the origin."""


def stable_id(created_at: datetime | None, *origin: str) -> str:
    """Return an id that sorts by its time among phichat's own.

    created_at: None where the source has no time; then every letter comes from the origin.
    """
    digest = hashlib.sha256("\0".join(origin).encode("utf-8", "surrogatepass")).digest()
    number = int.from_bytes(digest[:16], "big") >> 3
    if created_at is not None:
        milliseconds = max(0, int(created_at.timestamp() * 1000))
        number = milliseconds << 5 * _ORIGIN_LETTERS | int.from_bytes(digest[:10], "big")
    return "".join(
        _ALPHABET[number >> 5 * position & 31] for position in reversed(range(_TIME_LETTERS + _ORIGIN_LETTERS))
    )


def id_from_ulid(text: str) -> str | None:
    """Return the id for a ULID, None for any other text. A ULID's first letter is 0 until the year 3084."""
    is_ulid = len(text) == 26 and text[0] == "0" and all(letter in _ALPHABET for letter in text)
    return text[1:] if is_ulid else None
