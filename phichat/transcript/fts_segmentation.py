"""Word breaks for the full-text index in scripts that put no spaces between words."""

import re

_UNSPACED_SCRIPTS = (
    "(["
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2190-\u2bff\U0001f000-\U0001faff"  # symbols and emoji
    "\u2e80-\u2fdf\u3005-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # CJK
    "])"
)
WORD_BREAK = "\x1f"
_INVALID_CHARS = re.compile("[\x00\ud800-\udfff]")


def insert_word_breaks(text: bytes | str) -> str:
    """Return text for the full-text index: each character of such a script is a word, so that every run of
    them can be found, and characters that SQLite's text functions cannot handle are replaced."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogatepass")
    if text.isascii():
        return text.replace("\0", WORD_BREAK)
    # Compiled on first use: that takes 2 ms, and most prompts are ASCII.
    return re.sub(_UNSPACED_SCRIPTS, f"{WORD_BREAK}\\1{WORD_BREAK}", _INVALID_CHARS.sub(WORD_BREAK, text))
