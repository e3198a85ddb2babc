"""The owner of stderr: notices, warnings, errors, progress, and what each error means as an exit code."""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from pathlib import Path
from typing import TextIO

from phichat.errors import (
    ConfigError,
    ContextOverflow,
    ModelDoesNotFit,
    ModelNotInstalled,
    PhichatError,
    UsageError,
)
from phichat.terminal import StreamCleaner, clean, clean_line


class ExitCode(IntEnum):
    """What the command ends with."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    NOT_INSTALLED = 3
    DOES_NOT_FIT = 4
    PROMPT_TOO_LONG = 5
    CODE_WARNING = 6
    INTERRUPTED = 130


def exit_code(error: PhichatError) -> ExitCode:
    """The exit code for an error."""
    match error:
        case UsageError() | ConfigError():
            return ExitCode.USAGE
        case ModelNotInstalled():
            return ExitCode.NOT_INSTALLED
        case ModelDoesNotFit():
            return ExitCode.DOES_NOT_FIT
        case ContextOverflow():
            return ExitCode.PROMPT_TOO_LONG
        case _:
            return ExitCode.ERROR


class Diagnostics:
    """Lines on stderr; on a terminal also one line of progress that the next output replaces."""

    def __init__(self, stream: TextIO | None = None) -> None:
        # There is no sys.stderr where the caller has closed it.
        self._stream = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
        self._on_terminal = self._stream.isatty()
        self._dims = self._on_terminal and "NO_COLOR" not in os.environ
        self._cleaner = StreamCleaner()
        self._progress = ""
        self._mid_line = False

    @property
    def on_terminal(self) -> bool:
        """Whether a person reads it as it comes."""
        return self._on_terminal

    def progress(self, text: str) -> None:
        """Show what is going on, if somebody watches."""
        if not self._on_terminal or text == self._progress:
            return
        self.clear_progress()
        self._progress = clean_line(text)
        self._write(self._progress)

    def clear_progress(self) -> None:
        """Make room for other output."""
        if self._progress:
            self._write("\r" + " " * len(self._progress) + "\r")
            self._progress = ""

    def notice(self, line: str) -> None:
        """One line for the user."""
        self.end_reasoning()
        self.clear_progress()
        self._write(f"phichat: {clean_line(line)}\n")

    def reasoning(self, piece: str) -> None:
        """What the model thinks, as it thinks it."""
        self.clear_progress()
        if self._dims and not self._mid_line:
            self._write("\x1b[2m")
        self._mid_line = True
        self._write(self._cleaner.feed(piece))

    def end_reasoning(self) -> None:
        """The answer begins, or nothing more comes."""
        if self._mid_line:
            self._mid_line = False
            self._write(self._cleaner.close() + ("\x1b[0m" if self._dims else "") + "\n")

    def error(self, error: PhichatError, *, debug: bool) -> ExitCode:
        """Tell what happened and what to try."""
        self.notice(str(error))
        if debug:
            import traceback

            self._write(clean("".join(traceback.format_exception(error)) + error.detail) + "\n")
        return exit_code(error)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # Nobody reads it; the answer on stdout is what counts.
            return
