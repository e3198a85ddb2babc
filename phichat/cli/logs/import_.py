"""`phichat logs import`: conversations of other programs, each of them once."""

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import debug_option, json_option, open_transcripts
from phichat.cli.support.output import Output
from phichat.errors import TranscriptFileError
from phichat.paths import expand_user
from phichat.units import format_count


@click.command("import")
@click.argument("file", metavar="FILE")
@json_option
@debug_option
def logs_import(file: str, as_json: bool) -> None:
    """Import conversations from FILE: llm's logs.db, ChatGPT's conversations.json, OpenAI-style messages (JSON or
    JSONL), or phichat's own JSON.

    FILE is not modified; conversations already present are skipped.
    """
    from phichat.transcript.importers import read_file

    diagnostics = Diagnostics()
    imported = known = turns = 0
    with open_transcripts() as transcripts:
        store = transcripts.get_store()
        try:
            for conversation in read_file(expand_user(file)):
                if store.add_conversation(conversation):
                    imported, turns = imported + 1, turns + len(conversation.turns)
                else:
                    known += 1
                diagnostics.show_progress(f"{imported + known:,} conversations")
        except (UnicodeEncodeError, OverflowError) as error:
            # An id with half a surrogate pair, or a number of a hundred digits.
            message = f"A conversation in {file} cannot be saved ({error})"
            raise TranscriptFileError(message, "Check the file") from error
        finally:
            diagnostics.clear_progress()

    def format_result() -> str:
        present = f"{format_count(known, 'conversation')} already present"
        if not imported and known:
            return f"Nothing imported: {present}"
        result = f"{format_count(imported, 'conversation')} with {format_count(turns, 'turn')} imported"
        return f"{result}; {present}" if known else result

    Output().write_result({"imported": imported, "turns": turns, "known": known}, format_result, as_json=as_json)
