"""`phichat logs replay`: run recorded turns again and compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import all_options, create_context, json_option
from phichat.cli.support.output import Output
from phichat.cli.support.turn_presenter import show_progress
from phichat.config.settings import parse_option
from phichat.errors import TranscriptError
from phichat.events import Event, ModelReady

if TYPE_CHECKING:
    from phichat.chat.replay import ReplayResult


@click.command("replay")
@click.argument("cid")
@click.option(
    "--turn", "turn_number", type=click.IntRange(1), metavar="N", help="Only this turn (default: all completed turns)."
)
@json_option
@all_options
def logs_replay(cid: str, turn_number: int | None, as_json: bool, **flags: Any) -> int:
    """Replay answers of conversation CID with their recorded settings and report whether the output is identical.

    Model, parameters, seed, context and threads are the recorded ones unless a flag says otherwise.
    Nothing is saved.
    """
    from phichat.chat.replay import format_result, is_replayable
    from phichat.services.transcript_service import TranscriptService

    overrides = dict(parse_option(name, value) for name, value in flags.items() if value is not None)
    diagnostics, output = Diagnostics(), Output()
    documents: list[dict[str, Any]] = []
    with TranscriptService(create_context(**flags)) as transcripts, cancel_on_sigint() as cancel:
        branch = transcripts.get_conversation(cid).get_branch()
        if turn_number is not None and turn_number > len(branch):
            raise TranscriptError(f"The conversation has no turn {turn_number}", f"Choose 1 to {len(branch)}")
        if not any(map(is_replayable, branch if turn_number is None else branch[turn_number - 1 : turn_number])):
            raise TranscriptError(
                "Nothing to replay: no completed answer has its model and seed recorded", "Choose another conversation"
            )
        results = transcripts.replay(
            branch, turn_number, cancel, overrides=overrides, on_event=lambda event: _show_event(diagnostics, event)
        )
        transcripts.close()
        for result in results:
            diagnostics.clear_progress()
            documents.append(_to_document(result))
            if not as_json:
                output.write_text(format_result(result))
        diagnostics.clear_progress()
        if as_json:
            output.write_json(documents)
        return ExitCode.INTERRUPTED if cancel.is_set() else ExitCode.DONE


def _show_event(diagnostics: Diagnostics, event: Event) -> None:
    if isinstance(event, ModelReady) and not event.path:
        diagnostics.print_notice(f"{event.model.name} runs on a server, so identical output can't be guaranteed.")
    show_progress(event, diagnostics)


def _to_document(result: ReplayResult) -> dict[str, Any]:
    from phichat.chat.replay import MAX_SHOWN_CHARS

    index = result.first_difference
    return {
        "turn": result.turn_number,
        "identical": index is None,
        "first_difference": index,
        "recorded": None if index is None else result.recorded[index : index + MAX_SHOWN_CHARS],
        "replayed": None if index is None else result.replayed[index : index + MAX_SHOWN_CHARS],
        "changed": list(result.changes),
        "details": dict(result.changes),
    }
