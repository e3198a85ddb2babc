"""Questions before something that cannot be undone."""

import sys
from pathlib import Path

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.errors import OutputError, UsageError


def confirm_action(warning: str, question: str, *, assume_yes: bool) -> None:
    """Return if the user agrees.

    Raises UsageError if stdin is not a terminal, click.Abort if the user declines.
    """
    if assume_yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError(warning, "Use -y to confirm")
    Diagnostics().print_notice(f"{warning}.")
    click.confirm(question, abort=True, err=True)


def confirm_output_file(target: Path, *, assume_yes: bool) -> None:
    """Return if `target` does not exist or may be replaced. Raises OutputError for a directory, else as above."""
    if target.is_dir():
        raise OutputError(f"{target} is a directory", "Give the name of a file in it")
    if target.exists():
        confirm_action(f"{target} already exists", "Replace it?", assume_yes=assume_yes)
