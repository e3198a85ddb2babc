"""The prompt of `ask`: attached files, standard input and the words of the command line."""

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from phichat.chat.attachments import MAX_ATTACHMENT_BYTES, decode_text, read_attachment
from phichat.errors import AttachmentError
from phichat.types import Part, TextPart


def read_prompt(words: Sequence[str], files: Sequence[Path], stdin: TextIO | None) -> tuple[Part, ...]:
    """Return the parts in the order files, piped text, words; empty when there are none. Raises AttachmentError."""
    parts: list[Part] = [read_attachment(path) for path in files]
    texts = [" ".join(words)]
    if stdin is not None and not stdin.closed and not stdin.isatty():
        texts.insert(0, decode_text(_read_stdin(stdin), "Standard input").strip("\n"))
    if text := "\n\n".join(text for text in texts if text.strip()):
        parts.append(TextPart(text))
    return tuple(parts)


def _read_stdin(stdin: TextIO) -> bytes:
    buffer = getattr(stdin, "buffer", None)
    try:
        return buffer.read(MAX_ATTACHMENT_BYTES + 1) if buffer else stdin.read().encode()
    except OSError as error:
        raise AttachmentError(
            f"Standard input cannot be read ({error.strerror})", "Give the prompt as arguments"
        ) from error
