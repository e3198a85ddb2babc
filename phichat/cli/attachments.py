"""A prompt put together: attached files, what was piped in, and the words of the user."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from phichat.errors import AttachmentError

MOST_BYTES = 64 * 1024 * 1024
"""No context holds more text than this."""


def compose(words: Sequence[str], files: Sequence[Path], stdin: TextIO | None) -> str:
    """The whole prompt, in the order files, piped text, words; empty when there is none.

    Raises AttachmentError.
    """
    parts = [_attached(path) for path in files]
    if stdin is not None and not stdin.closed and not stdin.isatty():
        piped = _text(_piped(stdin), "What is piped in").strip("\n")
        parts.append(piped if piped.strip() else "")
    parts.append(" ".join(words))
    return "\n\n".join(part for part in parts if part)


def _piped(stdin: TextIO) -> bytes:
    buffer = getattr(stdin, "buffer", None)
    try:
        return buffer.read(MOST_BYTES + 1) if buffer else stdin.read().encode()
    except OSError as why:
        raise AttachmentError(f"What is piped in cannot be read ({why.strerror})", "give the prompt as words") from why


def _attached(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as why:
        raise AttachmentError(f"{path} cannot be read ({why.strerror})", "check the path given with -f") from why
    text = _text(content, str(path)).rstrip("\n")
    # The fence has to be longer than any in the file.
    ticks = max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1
    fence = "`" * ticks
    return f"File: {path.name}\n{fence}{path.suffix.lstrip('.')}\n{text}\n{fence}"


def _text(content: bytes, what: str) -> str:
    if len(content) > MOST_BYTES:
        raise AttachmentError(f"{what} is larger than {MOST_BYTES:,} bytes", "attach only the part that matters")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as why:
        raise AttachmentError(
            f"{what} is no UTF-8 text (byte {why.start:,} is {content[why.start]:#04x})", "convert it to text first"
        ) from why
    if "\0" in text:
        raise AttachmentError(f"{what} is a binary file", "attach text files only")
    return text
