"""Files that become part of a prompt."""

from __future__ import annotations

import re
from pathlib import Path

from phichat.errors import AttachmentError

MAX_ATTACHMENT_BYTES = 64 * 1024 * 1024
"""No context holds more text than this."""


def render_attachment(path: Path) -> str:
    """The file as a part of a prompt: its name, and its text in a fence. Raises AttachmentError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError as error:
        raise AttachmentError(f"{path} cannot be read ({error.strerror})", "Check the path") from error
    except ValueError as error:
        raise AttachmentError(f"{path} can be the name of no file", "Check the path") from error
    text = decode_text(content, str(path)).rstrip("\n")
    # The fence has to be longer than any in the file.
    fence_length = max((len(run) for run in re.findall(r"`{3,}", text)), default=2) + 1
    fence = "`" * fence_length
    return f"File: {path.name}\n{fence}{path.suffix.lstrip('.')}\n{text}\n{fence}"


def decode_text(content: bytes, source_name: str) -> str:
    """content as text; what names it in errors. Raises AttachmentError."""
    if len(content) > MAX_ATTACHMENT_BYTES:
        raise AttachmentError(
            f"{source_name} is larger than {MAX_ATTACHMENT_BYTES:,} bytes", "Attach only the part that matters"
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AttachmentError(
            f"{source_name} is no UTF-8 text (byte {error.start:,} is {content[error.start]:#04x})",
            "Convert it to text first",
        ) from error
    if "\0" in text:
        raise AttachmentError(f"{source_name} is a binary file", "Attach text files only")
    return text
