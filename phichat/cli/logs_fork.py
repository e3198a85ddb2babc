"""`phichat logs fork`: another way on from an earlier turn."""

from __future__ import annotations

import click

from phichat.cli.diagnostics import Diagnostics
from phichat.cli.output import Output
from phichat.paths import Paths


@click.command("fork")
@click.argument("cid")
@click.option("--at", "at", type=click.IntRange(1), required=True, metavar="N", help="The last turn to take along.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def logs_fork(cid: str, at: int, as_json: bool) -> None:
    """Begin a new conversation with the first N turns of another, and print its id."""
    from phichat.wiring import store

    kept = store(Paths.find())
    try:
        source = kept.find(cid)
        made = kept.fork(source, at)
    finally:
        kept.close()
    if as_json:
        Output().document({"id": made, "forked_from": source, "turns": at})
    else:
        Output().text(made)
        tell = Diagnostics()
        if tell.on_terminal:
            tell.notice(f"Go on with `phichat ask --cid {made}`.")
