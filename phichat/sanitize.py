"""Sanitiser of untrusted text for terminals and JSON output.

A model, a file name or a library's error may hold escape sequences (which move the cursor, write
the clipboard, rename the window), C1 bytes (the same in one character), or bidirectional and
zero-width characters (which show another text than the one that is copied). Each such character is
replaced by something visible; nothing is dropped silently.
"""

import json
import re

_ZERO_WIDTH_JOINERS = "\u200c\u200d"
"""Zero-width joiner and non-joiner: emoji and several scripts need them, ASCII never does."""

_UNSAFE = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f"  # C0 but tab and newline, DEL
    "\x80-\x9f"  # C1
    "\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\u180e"  # bidirectional, zero width
    "\u2028\u2029\ufff9-\ufffb\u00ad\u115f\u1160\u3164\uffa0"  # separators, annotations, fillers
    "\ud800-\udfff"  # lone surrogates, which no terminal encoding can carry
    "\U000e0000-\U000e0fff"  # tags and other default-ignorable characters
    "]"
    f"|(?<![^\\x00-\\x7f])[{_ZERO_WIDTH_JOINERS}]"
)


def _visible_replacement(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"<U+{code:04X}>"


def sanitize(text: str) -> str:
    """Return text in which every character that could control a terminal is visible; tab and newline stay."""
    return _UNSAFE.sub(_visible_replacement, text.replace("\r\n", "\n"))


def sanitize_line(text: str) -> str:
    """Return sanitised text as a single line, for names, titles and errors."""
    return " ".join(sanitize(text).split())


class StreamSanitizer:
    """Sanitiser of text that arrives in pieces.

    Zero-width joiners depend on the character before them and CR LF is one line end, so both are recognised across
    pieces.
    """

    def __init__(self) -> None:
        self._last_char = ""
        self._pending = ""

    def feed(self, text: str) -> str:
        """Return the next piece, sanitised; a trailing CR is held back until the piece after it."""
        text = self._pending + text
        self._pending = "\r" if text.endswith("\r") else ""
        text = text.removesuffix("\r")
        if not text:
            return ""
        sanitized = sanitize(self._last_char + text)
        prefix_length = len(sanitize(self._last_char))
        self._last_char = text[-1]
        return sanitized[prefix_length:]

    def flush(self) -> str:
        """Return the text that was held back, sanitised."""
        pending, self._pending = self._pending, ""
        return sanitize(pending)


def to_json(document: object, *, indent: int | None = None) -> str:
    """Return JSON in readable UTF-8 that cannot control a terminal and decodes to the same text."""
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _UNSAFE.sub(_escape_json, text)


def _escape_json(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


_ESCAPED = re.compile(r"\u27e6U\+([0-9A-F]{4,6})\u27e7")
_ESCAPE_LIKE = re.compile(r"\u27e6(?=U\+[0-9A-F]{4,6}\u27e7)")


def escape(text: str) -> str:
    """Return text sanitised so that `unescape` restores it exactly: \u27e6U+001B\u27e7 stands for ESC.

    For files that people read and programs parse. A bracket before such a name in the text itself is escaped too.
    `sanitize` leaves the result unchanged.
    """
    text = _ESCAPE_LIKE.sub("\u27e6U+27E6\u27e7", text)
    return _UNSAFE.sub(lambda found: f"\u27e6U+{ord(found.group()):04X}\u27e7", text)


def unescape(text: str) -> str:
    """Return the text that `escape` was given."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if int(found[1], 16) <= 0x10FFFF else found[0], text)
