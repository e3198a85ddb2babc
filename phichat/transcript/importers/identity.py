"""Ids for what comes from elsewhere: the same file read twice gives the same ones, so that it is kept once."""

from __future__ import annotations

import hashlib
from datetime import datetime

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME, _ORIGIN = 9, 16
"""Letters for the milliseconds since 1970, as in phichat's own ids, and for what names the origin."""


def stable_id(moment: datetime | None, *origin: str) -> str:
    """An id that sorts by its time among phichat's own.

    moment None: the source tells no time; then every letter is of the origin.
    """
    digest = hashlib.sha256("\0".join(origin).encode("utf-8", "surrogatepass")).digest()
    number = int.from_bytes(digest[:16], "big") >> 3
    if moment is not None:
        milliseconds = max(0, int(moment.timestamp() * 1000))
        number = milliseconds << 5 * _ORIGIN | int.from_bytes(digest[:10], "big")
    return "".join(_LETTERS[number >> 5 * at & 31] for at in reversed(range(_TIME + _ORIGIN)))


def from_ulid(text: str) -> str | None:
    """The id that stands for a ULID, None for what is none. Its first letter says nothing until the year 3084."""
    is_one = len(text) == 26 and text[0] == "0" and all(letter in _LETTERS for letter in text)
    return text[1:] if is_one else None
