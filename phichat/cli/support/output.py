"""The only writer of stdout: the answer or the data, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from phichat.errors import OutputError
from phichat.sanitize import StreamSanitizer, sanitize, to_json

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def to_document(record: DataclassInstance) -> dict[str, Any]:
    """Return a dataclass as a JSON object, with times in ISO 8601."""
    from dataclasses import asdict  # late: `--version` does without it

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in pairs}

    return asdict(record, dict_factory=to_object)


class StdoutClosed(Exception):
    """The reader of stdout closed it."""


def discard_stdout() -> None:
    """Redirect stdout to the null device: the interpreter flushes it at exit, and would report the error again."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Output:
    """Writes sanitised text to stdout, in UTF-8 for any locale.

    Its methods raise StdoutClosed, and OutputError when stdout cannot be written for another reason.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        # sys.stdout is None where the caller closed it.
        self._stream = stream or sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
        if reconfigure := getattr(self._stream, "reconfigure", None):
            reconfigure(encoding="utf-8", errors="replace")
        self._sanitizer = StreamSanitizer()
        self._ends_in_newline = True

    def write_delta(self, text: str) -> None:
        """Write a piece of a text."""
        self._write(self._sanitizer.feed(text))

    def write_trusted(self, text: str) -> None:
        """Write a piece of a document that is already sanitised."""
        self._write(text)

    def end_text(self) -> None:
        """End a text: complete its last line."""
        self._write(self._sanitizer.flush())
        if not self._ends_in_newline:
            self._write("\n")

    def write_text(self, text: str) -> None:
        """Write a whole text."""
        self._write(sanitize(text))
        self.end_text()

    def write_highlighted(self, spans: Iterable[tuple[str, bool]]) -> None:
        """Write a line with its highlighted spans in bold, or in « » where there is no colour."""
        is_bold = self._stream.isatty() and "NO_COLOR" not in os.environ
        start, end = ("\x1b[1m", "\x1b[0m") if is_bold else ("«", "»")
        pieces = (f"{start}{sanitize(text)}{end}" if highlight else sanitize(text) for text, highlight in spans)
        self._write("".join(pieces) + "\n")

    def write_json(self, document: object) -> None:
        """Write one JSON document."""
        self._write(to_json(document) + "\n")

    def write_result(self, document: object, format_text: Callable[[], str], *, as_json: bool) -> None:
        """Write the result of a command: the document as JSON, or the text for people."""
        if as_json:
            self.write_json(document)
        else:
            self.write_text(format_text())

    def _write(self, text: str) -> None:
        if not text:
            return
        self._ends_in_newline = text.endswith("\n")
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            discard_stdout()
            if isinstance(error, BrokenPipeError):
                raise StdoutClosed from None
            raise OutputError(f"The output cannot be written ({error.strerror})", "Write it somewhere else") from error
