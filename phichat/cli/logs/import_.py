"""`phichat logs import`: conversations from elsewhere, each of them once."""

from __future__ import annotations

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.output import Output
from phichat.errors import TranscriptFileError
from phichat.paths import Paths, expand_user


@click.command("import")
@click.argument("file", metavar="FILE")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def logs_import(file: str, as_json: bool) -> None:
    """Take in the conversations of FILE: llm's logs.db, messages as JSON or JSONL, or phichat's own JSON.

    FILE is only read. What is here already is left as it is.
    """
    from phichat.services.composition import open_store
    from phichat.transcript.importers import read_file

    diagnostics = Diagnostics()
    transcripts = open_store(Paths.from_environment())
    imported = known = turns = 0
    try:
        for conversation in read_file(expand_user(file)):
            try:
                added = transcripts.add_conversation(conversation)
            except (UnicodeEncodeError, OverflowError) as error:
                # An id of half a character, a number of a hundred digits: no program writes them.
                raise TranscriptFileError(
                    f"A conversation of {file} cannot be kept ({error})", "Check the file"
                ) from error
            if added:
                imported += 1
                turns += len(conversation.turns)
            else:
                known += 1
            diagnostics.show_progress(f"{imported + known:,} conversations")
    finally:
        diagnostics.clear_progress()
        transcripts.close()
    if as_json:
        Output().write_json({"imported": imported, "turns": turns, "known": known})
        return
    known_note = f"; {known:,} here already" if known else ""
    Output().write_text(f"{_plural(imported, 'conversation')} with {_plural(turns, 'turn')} imported{known_note}")


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
