"""A prompt put together: attached files, what was piped in, and the words of the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from phichat.chat.attachments import MOST_BYTES, attached, decoded
from phichat.errors import AttachmentError


def compose(words: Sequence[str], files: Sequence[Path], stdin: TextIO | None) -> str:
    """The whole prompt, in the order files, piped text, words; empty when there is none.

    Raises AttachmentError.
    """
    parts = [attached(path) for path in files]
    if stdin is not None and not stdin.closed and not stdin.isatty():
        piped = decoded(_piped(stdin), "What is piped in").strip("\n")
        parts.append(piped if piped.strip() else "")
    parts.append(" ".join(words))
    return "\n\n".join(part for part in parts if part)


def _piped(stdin: TextIO) -> bytes:
    buffer = getattr(stdin, "buffer", None)
    try:
        return buffer.read(MOST_BYTES + 1) if buffer else stdin.read().encode()
    except OSError as why:
        raise AttachmentError(f"What is piped in cannot be read ({why.strerror})", "give the prompt as words") from why
