"""`phichat logs backup`, `fork`, `import`, `rename` and `rm`: copies, new conversations, new titles, deletions."""

import click

from phichat.cli.support.confirmation import confirm_action, confirm_output_file
from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import debug_option, json_option, open_transcripts, yes_option
from phichat.cli.support.output import Output
from phichat.errors import TranscriptFileError, UsageError
from phichat.paths import expand_user
from phichat.sanitize import sanitize_line
from phichat.units import format_count


@click.command("backup")
@click.argument("file", metavar="FILE")
@yes_option
def logs_backup(file: str, yes: bool) -> None:
    """Write a consistent copy of all transcripts to FILE, even while conversations are in progress.

    To restore it, put it at the path shown by `phichat path logs`.
    """
    target = expand_user(file).absolute()
    confirm_output_file(target, assume_yes=yes)
    with open_transcripts() as transcripts:
        transcripts.get_store().write_backup(target)


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
