"""Text files that become parts of a prompt."""

from pathlib import Path

from phichat.errors import AttachmentError
from phichat.types import FilePart

MAX_ATTACHMENT_BYTES = 64 * 1024 * 1024
"""No context holds more text than this."""


def read_attachment(path: Path) -> FilePart:
    """Read a text file. Raises AttachmentError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ATTACHMENT_BYTES + 1)
    except OSError as error:
        raise AttachmentError(f"{path} cannot be read ({error.strerror})", "Check the path") from error
    except ValueError as error:
        raise AttachmentError(f"{path} isn't a valid file name", "Check the path") from error
    return FilePart(path.name, len(content), decode_text(content, str(path)))


def decode_text(content: bytes, source: str) -> str:
    """Decode UTF-8 text; `source` names it in errors. Raises AttachmentError."""
    if len(content) > MAX_ATTACHMENT_BYTES:
        raise AttachmentError(f"{source} is larger than {MAX_ATTACHMENT_BYTES:,} bytes", "Attach only a part of it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AttachmentError(
            f"{source} isn't UTF-8 text (byte {error.start:,} is {content[error.start]:#04x})",
            "Convert it to UTF-8 first",
        ) from error
    if "\0" in text:
        raise AttachmentError(f"{source} is a binary file", "Attach text files only")
    return text
