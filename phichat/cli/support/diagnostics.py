"""The only writer of stderr: notices, warnings, errors, progress; and the exit code of each error."""

import os
import sys
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import TextIO

from phichat.errors import ConfigError, ContextOverflow, ModelDoesNotFit, ModelNotInstalled, PhichatError, UsageError
from phichat.sanitize import StreamSanitizer, sanitize, sanitize_line


class ExitCode(IntEnum):
    """Exit status of a command."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    NOT_INSTALLED = 3
    DOES_NOT_FIT = 4
    PROMPT_TOO_LONG = 5
    CODE_WARNING = 6
    INTERRUPTED = 130


_ERROR_CODES: dict[type[PhichatError], ExitCode] = {
    UsageError: ExitCode.USAGE,
    ConfigError: ExitCode.USAGE,
    ModelNotInstalled: ExitCode.NOT_INSTALLED,
    ModelDoesNotFit: ExitCode.DOES_NOT_FIT,
    ContextOverflow: ExitCode.PROMPT_TOO_LONG,
}


def exit_code_for(error: PhichatError) -> ExitCode:
    """Return the exit code for an error."""
    return next((code for kind, code in _ERROR_CODES.items() if isinstance(error, kind)), ExitCode.ERROR)


class Diagnostics:
    """Writes lines to stderr; on a terminal also one line of progress that the next output replaces.

    is_terminal: True if stderr is a terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        # sys.stderr is None where the caller closed it.
        self._stream = stream or sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115  (as long as the process)
        self.is_terminal = self._stream.isatty()
        self._dim_reasoning = self.is_terminal and "NO_COLOR" not in os.environ
        self._sanitizer = StreamSanitizer()
        self._progress = ""
        self._reasoning_open = False

    def show_progress(self, text: str) -> None:
        """Show the progress on a terminal."""
        if not self.is_terminal or text == self._progress:
            return
        self.clear_progress()
        self._progress = sanitize_line(text)
        self._write(self._progress)

    def clear_progress(self) -> None:
        """Erase the line of progress."""
        if self._progress:
            self._write("\r" + " " * len(self._progress) + "\r")
            self._progress = ""

    def print_notice(self, *lines: str) -> None:
        """Write lines for the user."""
        for line in lines:
            self.end_reasoning()
            self.clear_progress()
            self._write(f"phichat: {sanitize_line(line)}\n")

    def print_reasoning(self, text: str) -> None:
        """Write a piece of the model's reasoning."""
        self.clear_progress()
        if self._dim_reasoning and not self._reasoning_open:
            self._write("\x1b[2m")
        self._reasoning_open = True
        self._write(self._sanitizer.feed(text))

    def end_reasoning(self) -> None:
        """End the reasoning, before the answer or the end."""
        if self._reasoning_open:
            self._reasoning_open = False
            self._write(self._sanitizer.flush() + ("\x1b[0m" if self._dim_reasoning else "") + "\n")

    def print_error(self, error: PhichatError, *, debug: bool) -> ExitCode:
        """Write an error, with its traceback for `debug`, and return its exit code."""
        self.print_notice(str(error))
        if debug:
            import traceback

            self._write(sanitize("".join(traceback.format_exception(error)) + error.detail) + "\n")
        return exit_code_for(error)

    def _write(self, text: str) -> None:
        with suppress(OSError):  # diagnostics must not stop the answer on stdout
            self._stream.write(text)
            self._stream.flush()
