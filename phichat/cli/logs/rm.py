"""`phichat logs rm`: delete conversations."""

import click

from phichat.cli.support.confirmation import confirm_action
from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import open_transcripts, yes_option


@click.command("rm")
@click.argument("cids", metavar="CID...", nargs=-1, required=True)
@yes_option
def logs_rm(cids: tuple[str, ...], yes: bool) -> None:
    """Delete conversations permanently, leaving no trace in the file."""
    diagnostics = Diagnostics()
    with open_transcripts() as transcripts:
        ids = list(dict.fromkeys(map(transcripts.get_store().find_id, cids)))
        confirm_action(f"This permanently deletes {', '.join(ids)}", "Delete?", assume_yes=yes)
        diagnostics.show_progress("deleting (and cleaning the search index)")
        is_erased = transcripts.delete(ids)
        diagnostics.clear_progress()
    if not is_erased:
        notice = "Another program has the transcripts open; deleted text stays in the file until it closes."
        diagnostics.print_notice(notice)
