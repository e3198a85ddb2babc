"""Files that become part of a prompt."""

from __future__ import annotations

import re
from pathlib import Path

from phichat.errors import AttachmentError

MOST_BYTES = 64 * 1024 * 1024
"""No context holds more text than this."""


def attached(path: Path) -> str:
    """The file as a part of a prompt: its name, and its text in a fence. Raises AttachmentError."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as why:
        raise AttachmentError(f"{path} cannot be read ({why.strerror})", "check the path") from why
    text = decoded(content, str(path)).rstrip("\n")
    # The fence has to be longer than any in the file.
    ticks = max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1
    fence = "`" * ticks
    return f"File: {path.name}\n{fence}{path.suffix.lstrip('.')}\n{text}\n{fence}"


def decoded(content: bytes, what: str) -> str:
    """content as text; what names it in errors. Raises AttachmentError."""
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
