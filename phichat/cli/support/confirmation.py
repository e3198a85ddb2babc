"""Questions before something cannot be undone."""

from __future__ import annotations

import sys

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.errors import UsageError


def confirm_action(warning: str, question: str, *, assume_yes: bool) -> None:
    """Go on only when the user wants it.

    Raises UsageError where nobody can be asked, click.Abort for a no.
    """
    if assume_yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise UsageError(warning, "Say -y if that is meant")
    Diagnostics().print_notice(f"{warning}.")
    click.confirm(question, abort=True, err=True)
