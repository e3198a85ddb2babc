"""The owner of stdout: the answer or the data, and nothing else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from phichat.errors import OutputError
from phichat.sanitize import StreamSanitizer, sanitize, to_json


class StdoutClosed(Exception):
    """Whoever read stdout has closed it."""


def discard_stdout() -> None:
    """Give up stdout: the interpreter flushes it once more at exit, and would complain then."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Output:
    """Writes text that can steer no terminal, in UTF-8 whatever the locale.

    Its methods raise ReaderLeft, and OutputError when stdout cannot be written for another reason.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        # There is no sys.stdout where the caller has closed it.
        self._stream = stream or sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
        if reconfigure := getattr(self._stream, "reconfigure", None):
            reconfigure(encoding="utf-8", errors="replace")
        self._sanitizer = StreamSanitizer()
        self._ends_in_newline = True

    def write_delta(self, text: str) -> None:
        """A piece of a text that goes on."""
        self._write(self._sanitizer.feed(text))

    def write_trusted(self, text: str) -> None:
        """A piece of a document whose maker has seen to it that it steers no terminal."""
        self._write(text)

    def end_text(self) -> None:
        """The text is complete: its last line gets an end."""
        self._write(self._sanitizer.flush())
        if not self._ends_in_newline:
            self._write("\n")

    def write_text(self, text: str) -> None:
        """A whole text."""
        self._write(sanitize(text))
        self.end_text()

    def write_highlighted(self, spans: Iterable[tuple[str, bool]]) -> None:
        """A line whose marked pieces stand out."""
        is_bold = self._stream.isatty() and "NO_COLOR" not in os.environ
        start_mark, end_mark = ("\x1b[1m", "\x1b[0m") if is_bold else ("«", "»")
        self._write(
            "".join(
                f"{start_mark}{sanitize(text)}{end_mark}" if highlight else sanitize(text) for text, highlight in spans
            )
            + "\n"
        )

    def write_json(self, document: object) -> None:
        """One JSON document."""
        self._write(to_json(document) + "\n")

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
            raise OutputError(f"The answer cannot be written ({error.strerror})", "Write it elsewhere") from error
