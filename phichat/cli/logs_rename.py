"""`phichat logs rename`: another title."""

from __future__ import annotations

import click

from phichat.errors import UsageError
from phichat.paths import Paths
from phichat.terminal import clean_line


@click.command("rename")
@click.argument("cid")
@click.argument("title", nargs=-1, required=True)
def logs_rename(cid: str, title: tuple[str, ...]) -> None:
    """Give a conversation another title."""
    from phichat.wiring import store

    whole = clean_line(" ".join(title))
    if not whole:
        raise UsageError("The title is empty", "give one that says what it is about")
    kept = store(Paths.find())
    try:
        kept.rename(kept.find(cid), whole)
    finally:
        kept.close()
