"""`phichat logs import`: conversations from elsewhere, each of them once."""

from __future__ import annotations

import click

from phichat.cli.diagnostics import Diagnostics
from phichat.cli.output import Output
from phichat.errors import TranscriptFileError
from phichat.paths import Paths, expanded


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def logs_import(file: str, as_json: bool) -> None:
    """Take in the conversations of FILE: llm's logs.db, messages as JSON or JSONL, or phichat's own JSON.

    FILE is only read. What is here already is left as it is.
    """
    from phichat.transcript.importers import read
    from phichat.wiring import store

    tell = Diagnostics()
    kept = store(Paths.find())
    imported = known = turns = 0
    try:
        for conversation in read(expanded(file)):
            try:
                added = kept.add(conversation)
            except (UnicodeEncodeError, OverflowError) as why:
                # An id of half a character, a number of a hundred digits: no program writes them.
                raise TranscriptFileError(f"A conversation of {file} cannot be kept ({why})", "check the file") from why
            if added:
                imported += 1
                turns += len(conversation.turns)
            else:
                known += 1
            tell.progress(f"{imported + known:,} conversations")
    finally:
        tell.clear_progress()
        kept.close()
    if as_json:
        Output().document({"imported": imported, "turns": turns, "known": known})
        return
    there = f"; {known:,} here already" if known else ""
    Output().text(f"{_counted(imported, 'conversation')} with {_counted(turns, 'turn')} imported{there}")


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
