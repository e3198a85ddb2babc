"""`phichat logs fork`: another way on from an earlier turn."""

from __future__ import annotations

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.output import Output
from phichat.paths import Paths


@click.command("fork")
@click.argument("cid")
@click.option("--at", "at", type=click.IntRange(1), required=True, metavar="N", help="The last turn to take along.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def logs_fork(cid: str, at: int, as_json: bool) -> None:
    """Begin a new conversation with the first N turns of another, and print its id."""
    from phichat.services.composition import open_store

    transcripts = open_store(Paths.from_environment())
    try:
        source = transcripts.find_id(cid)
        fork_id = transcripts.fork_conversation(source, at)
    finally:
        transcripts.close()
    if as_json:
        Output().write_json({"id": fork_id, "forked_from": source, "turns": at})
    else:
        Output().write_text(fork_id)
        diagnostics = Diagnostics()
        if diagnostics.is_terminal:
            diagnostics.print_notice(f"Go on with `phichat ask --cid {fork_id}`.")
