"""`phichat logs fork`: continue from an earlier turn."""

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import json_option, open_transcripts
from phichat.cli.support.output import Output


@click.command("fork")
@click.argument("cid")
@click.option("--at", "at", type=click.IntRange(1), required=True, metavar="N", help="Last turn to include.")
@json_option
def logs_fork(cid: str, at: int, as_json: bool) -> None:
    """Start a new conversation from the first N turns of another, and print its id."""
    with open_transcripts() as transcripts:
        source = transcripts.get_store().find_id(cid)
        fork_id = transcripts.get_store().fork_conversation(source, at)
    Output().write_result({"id": fork_id, "forked_from": source, "turns": at}, lambda: fork_id, as_json=as_json)
    if (diagnostics := Diagnostics()).is_terminal and not as_json:
        diagnostics.print_notice(f"Continue with `phichat ask --cid {fork_id}`.")
