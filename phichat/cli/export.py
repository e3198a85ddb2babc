"""`phichat export`: conversations as files to share and to process."""

from collections.abc import Sequence
from pathlib import Path

import click

from phichat.cli.support.confirmation import confirm_output_file
from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import debug_option, open_transcripts, yes_option
from phichat.cli.support.output import Output
from phichat.errors import ConversationNotFound, OutputError, UsageError
from phichat.paths import expand_user
from phichat.storage.atomic_write import write_atomically
from phichat.transcript.export import ExportFormat, write_export
from phichat.transcript.records import ConversationRecord

_SUFFIXES = {".markdown": "md", ".htm": "html", ".ndjson": "jsonl", ".text": "txt"}


@click.command()
@click.argument("ids", metavar="[CID]...", nargs=-1)
@click.option("--last", is_flag=True, help="The most recent conversation (default).")
@click.option("--all", "all_", is_flag=True, help="All conversations, newest first.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([form.value for form in ExportFormat], case_sensitive=False),
    help="Default: from FILE's extension, else md. Only json is lossless.",
)
@click.option("-o", "--output", "file", metavar="FILE", help="Output file (default: stdout).")
@yes_option
@debug_option
def export(ids: tuple[str, ...], last: bool, all_: bool, format_name: str | None, file: str | None, yes: bool) -> None:
    """Write conversations as Markdown, a web page, JSON, JSON Lines or text.

    CID is the id of a conversation, or its beginning. `phichat logs import` can read the JSON back.
    """
    if sum((bool(ids), last, all_)) > 1:
        raise UsageError("CID, --last and --all exclude each other", "Use only one of them")
    target = None if file in (None, "-") else expand_user(str(file))
    export_format = ExportFormat(format_name.lower()) if format_name else _format_of_suffix(target)
    if target is not None:
        confirm_output_file(target, assume_yes=yes)
    conversations = _load_conversations(ids, all_=all_)
    if export_format is ExportFormat.JSONL:
        from phichat.transcript.export.openai_jsonl import describe_omissions

        if omissions := describe_omissions(conversations):
            Diagnostics().print_notice(omissions)
    pieces = write_export(conversations, export_format)
    if target is None:
        output = Output()
        for piece in pieces:
            output.write_trusted(piece)
        return
    try:
        write_atomically(target, "".join(pieces).encode())
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror})", "Write it somewhere else") from error


def _format_of_suffix(target: Path | None) -> ExportFormat:
    suffix = target.suffix.lower() if target else ""
    name = _SUFFIXES.get(suffix, suffix.removeprefix("."))
    return ExportFormat(name) if name in list(ExportFormat) else ExportFormat.MARKDOWN


def _load_conversations(ids: Sequence[str], *, all_: bool) -> Sequence[ConversationRecord]:
    with open_transcripts() as transcripts:
        store = transcripts.get_store()
        if all_:
            conversation_ids = [summary.id for summary in store.list_conversations()]
        elif ids:
            conversation_ids = list(dict.fromkeys(map(store.find_id, ids)))
        elif latest := store.latest_id():
            conversation_ids = [latest]
        else:
            raise ConversationNotFound("There is no conversation yet", "Start one with `phichat ask`")
        return [store.get_conversation(id_) for id_ in conversation_ids]
