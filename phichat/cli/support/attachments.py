"""The prompt of `ask`: attached files, standard input and the words of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from phichat.chat.attachments import MAX_ATTACHMENT_BYTES, decode_text, render_attachment
from phichat.errors import AttachmentError


def compose_prompt(words: Sequence[str], files: Sequence[Path], stdin: TextIO | None) -> str:
    """Return files, standard input and words in this order, "" when there is none. Raises AttachmentError."""
    parts = [render_attachment(path) for path in files]
    if stdin is not None and not stdin.closed and not stdin.isatty():
        piped = decode_text(_read_stdin(stdin), "Standard input").strip("\n")
        parts.append(piped if piped.strip() else "")
    parts.append(" ".join(words))
    return "\n\n".join(part for part in parts if part)


def _read_stdin(stdin: TextIO) -> bytes:
    buffer = getattr(stdin, "buffer", None)
    try:
        return buffer.read(MAX_ATTACHMENT_BYTES + 1) if buffer else stdin.read().encode()
    except OSError as error:
        raise AttachmentError(
            f"Standard input cannot be read ({error.strerror})", "Give the prompt as arguments"
        ) from error
