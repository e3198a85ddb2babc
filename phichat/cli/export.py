"""`phichat export`: conversations as files that people share and programs process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from phichat.cli.support.confirmation import confirm_action
from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.output import Output
from phichat.errors import ConversationNotFound, OutputError, UsageError
from phichat.paths import Paths, expand_user
from phichat.storage.atomic_write import write_atomically
from phichat.transcript.export import ExportFormat, write_export
from phichat.transcript.records import ConversationRecord

_SUFFIXES = {".markdown": "md", ".htm": "html", ".ndjson": "jsonl", ".text": "txt"}


@click.command()
@click.argument("ids", metavar="[CID]...", nargs=-1)
@click.option("--last", is_flag=True, help="The conversation that was last spoken in; the default.")
@click.option("--all", "all_", is_flag=True, help="All conversations, the newest first.")
@click.option(
    "--format",
    "format_name",
    type=click.Choice([form.value for form in ExportFormat], case_sensitive=False),
    help="Default: what the name of FILE ends in, else md. Only json keeps everything.",
)
@click.option("-o", "--output", "file", metavar="FILE", help="Where to write; default: stdout.")
@click.option("-y", "--yes", is_flag=True, help="Replace FILE if it exists.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def export(ids: tuple[str, ...], last: bool, all_: bool, format_name: str | None, file: str | None, yes: bool) -> None:
    """Write conversations as Markdown, a web page, JSON, JSON Lines or text.

    CID is the id of a conversation, or its beginning. `phichat logs import` reads the JSON again.
    """
    if sum((bool(ids), last, all_)) > 1:
        raise UsageError("CID, --last and --all exclude each other", "Give one of them")
    target = None if file in (None, "-") else expand_user(str(file))
    export_format = ExportFormat(format_name.lower()) if format_name else _format_of_suffix(target)
    if target is not None:
        _confirm_target(target, yes=yes)
    conversations = _load_conversations(Paths.from_environment(), ids, all_=all_)
    if export_format is ExportFormat.JSONL:
        from phichat.transcript.export.openai_jsonl import describe_omissions

        if loss_notice := describe_omissions(conversations):
            Diagnostics().print_notice(loss_notice)
    pieces = write_export(conversations, export_format)
    if target is None:
        output = Output()
        for piece in pieces:
            output.write_trusted(piece)
    else:
        _write_target(target, pieces)


def _format_of_suffix(target: Path | None) -> ExportFormat:
    suffix = target.suffix.lower() if target else ""
    name = _SUFFIXES.get(suffix, suffix.removeprefix("."))
    return ExportFormat(name) if name in list(ExportFormat) else ExportFormat.MARKDOWN


def _confirm_target(target: Path, *, yes: bool) -> None:
    if target.is_dir():
        raise OutputError(f"{target} is a directory", "Give the name of a file in it")
    if target.exists():
        confirm_action(f"{target} exists already", "Replace it?", assume_yes=yes)


def _load_conversations(paths: Paths, ids: Sequence[str], *, all_: bool) -> Sequence[ConversationRecord]:
    from phichat.services.composition import open_store

    transcripts = open_store(paths)
    try:
        if all_:
            conversation_ids = [summary.id for summary in transcripts.list_conversations()]
        elif ids:
            conversation_ids = list(dict.fromkeys(transcripts.find_id(id_) for id_ in ids))
        elif latest := transcripts.latest_id():
            conversation_ids = [latest]
        else:
            raise ConversationNotFound("There is no conversation yet", "Begin one with `phichat ask`")
        return [transcripts.get_conversation(id_) for id_ in conversation_ids]
    finally:
        transcripts.close()


def _write_target(target: Path, pieces: Iterator[str]) -> None:
    try:
        write_atomically(target, "".join(pieces).encode())
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror})", "Write it elsewhere") from error
