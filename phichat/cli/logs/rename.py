"""`phichat logs rename`: another title."""

import click

from phichat.cli.support.options import open_transcripts
from phichat.errors import UsageError
from phichat.sanitize import sanitize_line


@click.command("rename")
@click.argument("cid")
@click.argument("title", nargs=-1, required=True)
def logs_rename(cid: str, title: tuple[str, ...]) -> None:
    """Rename a conversation."""
    new_title = sanitize_line(" ".join(title))
    if not new_title:
        raise UsageError("The title is empty", "Give a title")
    with open_transcripts() as transcripts:
        transcripts.rename(transcripts.get_store().find_id(cid), new_title)
