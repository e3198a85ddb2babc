"""`phichat logs replay`: whether a reply comes out the same again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.options import all_options
from phichat.cli.support.output import Output
from phichat.config.settings import load_config, parse_option
from phichat.errors import TranscriptError
from phichat.events import Event, ModelLoading, ModelReady, PromptProgress
from phichat.paths import Paths
from phichat.types import SamplingParams

if TYPE_CHECKING:
    from phichat.chat.replay import ReplayResult
    from phichat.transcript.records import TurnRecord


@click.command("replay")
@click.argument("cid")
@click.option(
    "--turn", "turn_number", type=click.IntRange(1), metavar="N", help="Only this turn; default: all that ended."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@all_options
def logs_replay(cid: str, turn_number: int | None, as_json: bool, **flags: Any) -> int:
    """Run replies of conversation CID again, as they were run, and tell whether the same comes out.

    Model, parameters, seed, context and threads are the recorded ones unless a flag says otherwise.
    Nothing of it is kept.
    """
    from phichat.chat.replay import format_result, is_replayable, replay_turns
    from phichat.services.composition import create_replay_backend

    paths = Paths.from_environment()
    branch, recorded_paths = _load_branch(paths, cid)
    if turn_number is not None and turn_number > len(branch):
        raise TranscriptError(f"The conversation has no turn {turn_number}", f"Its turns are 1 to {len(branch)}")
    selected_turns = branch if turn_number is None else branch[turn_number - 1 : turn_number]
    if not any(map(is_replayable, selected_turns)):
        raise TranscriptError(
            "There is no reply to run again: none ended with its model and seed recorded", "Try another conversation"
        )
    given_flags = {name: value for name, value in flags.items() if value is not None}
    parsed_flags = dict(parse_option(name, value) for name, value in given_flags.items())
    config = load_config(given_flags, paths.config_file)
    sampling = {key: value for key, value in parsed_flags.items() if key in SamplingParams.__dataclass_fields__}
    diagnostics, output = Diagnostics(), Output()
    results: list[ReplayResult] = []
    with cancel_on_sigint() as cancel:
        for replayed in replay_turns(
            branch,
            turn_number,
            lambda turn: create_replay_backend(
                turn, recorded_paths.get(turn.model.name) if turn.model else None, config, paths, parsed_flags
            ),
            lambda params: replace(params, **sampling),
            lambda event: _show_event(diagnostics, event),
            cancel,
        ):
            results.append(replayed)
            diagnostics.clear_progress()
            if not as_json:
                output.write_text(format_result(replayed))
        diagnostics.clear_progress()
        if as_json:
            output.write_json([_to_document(one) for one in results])
        return ExitCode.INTERRUPTED if cancel.is_set() else ExitCode.DONE


def _load_branch(paths: Paths, cid: str) -> tuple[tuple[TurnRecord, ...], dict[str, str]]:
    """The shown turns, and where the file of each model was, by name."""
    from phichat.services.composition import open_store

    transcripts = open_store(paths)
    try:
        branch = transcripts.get_conversation(transcripts.find_id(cid)).get_branch()
        return branch, {turn.model.name: transcripts.get_model_path(turn.model) for turn in branch if turn.model}
    finally:
        transcripts.close()


def _show_event(diagnostics: Diagnostics, event: Event) -> None:
    match event:
        case ModelLoading():
            diagnostics.show_progress(f"loading {event.model} {event.fraction:.0%}")
        case ModelReady():
            if not event.path:
                diagnostics.print_notice(
                    f"What answers as {event.model.name} is a server's affair; the same answer cannot be promised."
                )
            diagnostics.show_progress("reading the prompt")
        case PromptProgress():
            diagnostics.show_progress(
                f"reading {event.done:,} of {event.total:,} tokens" if event.done < event.total else "answering"
            )
        case _:
            pass


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
