"""`phichat export`: conversations as files that people share and programs process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from phichat.cli.confirm import confirm
from phichat.cli.diagnostics import Diagnostics
from phichat.cli.output import Output
from phichat.errors import ConversationNotFound, OutputError, UsageError
from phichat.paths import Paths, expanded, write_atomically
from phichat.transcript.export import Format, write
from phichat.transcript.records import ConversationRecord

_SUFFIXES = {".markdown": "md", ".htm": "html", ".ndjson": "jsonl", ".text": "txt"}


@click.command()
@click.argument("ids", metavar="[CID]...", nargs=-1)
@click.option("--last", is_flag=True, help="The conversation that was last spoken in; the default.")
@click.option("--all", "everything", is_flag=True, help="All conversations, the newest first.")
@click.option(
    "--format",
    "form",
    type=click.Choice([form.value for form in Format], case_sensitive=False),
    help="Default: what the name of FILE ends in, else md. Only json keeps everything.",
)
@click.option("-o", "--output", "file", metavar="FILE", help="Where to write; default: stdout.")
@click.option("-y", "--yes", is_flag=True, help="Replace FILE if it exists.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
def export(ids: tuple[str, ...], last: bool, everything: bool, form: str | None, file: str | None, yes: bool) -> None:
    """Write conversations as Markdown, a web page, JSON, JSON Lines or text.

    CID is the id of a conversation, or its beginning. `phichat logs import` reads the JSON again.
    """
    if sum((bool(ids), last, everything)) > 1:
        raise UsageError("CID, --last and --all exclude each other", "give one of them")
    target = None if file in (None, "-") else expanded(str(file))
    chosen = Format(form.lower()) if form else _by_suffix(target)
    if target is not None:
        _make_sure(target, yes=yes)
    conversations = _conversations(Paths.find(), ids, everything=everything)
    if chosen is Format.JSONL:
        from phichat.transcript.export.messages import left_out

        if lost := left_out(conversations):
            Diagnostics().notice(lost)
    pieces = write(conversations, chosen)
    if target is None:
        output = Output()
        for piece in pieces:
            output.made(piece)
    else:
        _keep(target, pieces)


def _by_suffix(target: Path | None) -> Format:
    suffix = target.suffix.lower() if target else ""
    name = _SUFFIXES.get(suffix, suffix.removeprefix("."))
    return Format(name) if name in list(Format) else Format.MARKDOWN


def _make_sure(target: Path, *, yes: bool) -> None:
    if target.is_dir():
        raise OutputError(f"{target} is a directory", "give the name of a file in it")
    if target.exists():
        confirm(f"{target} exists already", "Replace it?", yes=yes)


def _conversations(paths: Paths, ids: Sequence[str], *, everything: bool) -> Sequence[ConversationRecord]:
    from phichat.wiring import store

    kept = store(paths)
    try:
        if everything:
            wanted = [summary.id for summary in kept.conversations()]
        elif ids:
            wanted = list(dict.fromkeys(kept.find(id_) for id_ in ids))
        elif latest := kept.latest():
            wanted = [latest]
        else:
            raise ConversationNotFound("There is no conversation yet", "begin one with `phichat ask`")
        return [kept.conversation(id_) for id_ in wanted]
    finally:
        kept.close()


def _keep(target: Path, pieces: Iterator[str]) -> None:
    try:
        write_atomically(target, "".join(pieces).encode())
    except OSError as why:
        raise OutputError(f"{target} cannot be written ({why.strerror})", "write it elsewhere") from why
