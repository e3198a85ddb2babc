"""`phichat chat`, and `phichat` alone: the full-screen chat."""

from __future__ import annotations

import click

from phichat.errors import UsageError


@click.command()
def chat() -> None:
    """Chat in the full screen (not there yet)."""
    raise UsageError("There is no full-screen chat yet", "ask a single question with `phichat ask`")
