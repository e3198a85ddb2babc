"""Where words begin and end in scripts that put no spaces between them."""

from __future__ import annotations

import re

_UNSPACED = (
    "(["
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2190-\u2bff\U0001f000-\U0001faff"  # symbols and emoji
    "\u2e80-\u2fdf\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # CJK
    "])"
)
_MARK = "\x1f"
_BROKEN = re.compile("[\x00\ud800-\udfff]")


def spaced(text: bytes | str) -> str:
    """text as the full-text index takes it: each character of such a script apart, so that every run of
    them can be found, and nothing that SQLite's text functions stumble over."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogatepass")
    if text.isascii():
        return text.replace("\0", _MARK)
    # Compiled where it is first needed: that takes 2 ms, and most questions are asked in ASCII.
    return re.sub(_UNSPACED, f"{_MARK}\\1{_MARK}", _BROKEN.sub(_MARK, text))


def unspaced(text: str) -> str:
    """What `spaced` was given, but for what it could not take."""
    return text.replace(_MARK, "")
