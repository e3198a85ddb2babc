"""`phichat logs rename`: another title."""

from __future__ import annotations

import click

from phichat.errors import UsageError
from phichat.paths import Paths
from phichat.sanitize import sanitize_line


@click.command("rename")
@click.argument("cid")
@click.argument("title", nargs=-1, required=True)
def logs_rename(cid: str, title: tuple[str, ...]) -> None:
    """Give a conversation another title."""
    from phichat.services.composition import open_store

    new_title = sanitize_line(" ".join(title))
    if not new_title:
        raise UsageError("The title is empty", "Give one that says what it is about")
    transcripts = open_store(Paths.from_environment())
    try:
        transcripts.rename_conversation(transcripts.find_id(cid), new_title)
    finally:
        transcripts.close()
