"""`phichat logs replay`: whether a reply comes out the same again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.options import all_options
from phichat.cli.output import Output
from phichat.config import load, read_option
from phichat.errors import TranscriptError
from phichat.events import Event, ModelLoading, ModelReady, PromptProgress
from phichat.messages import GenerationParams
from phichat.paths import Paths

if TYPE_CHECKING:
    from phichat.chat.replay import Replayed
    from phichat.transcript.records import TurnRecord


@click.command("replay")
@click.argument("cid")
@click.option("--turn", "number", type=click.IntRange(1), metavar="N", help="Only this turn; default: all that ended.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@all_options
def logs_replay(cid: str, number: int | None, as_json: bool, **flags: Any) -> int:
    """Run replies of conversation CID again, as they were run, and tell whether the same comes out.

    Model, parameters, seed, context and threads are the recorded ones unless a flag says otherwise.
    Nothing of it is kept.
    """
    from phichat.chat.replay import can_be_replayed, replay, sentence
    from phichat.wiring import recorded_backend

    paths = Paths.find()
    branch, places = _branch(paths, cid)
    if number is not None and number > len(branch):
        raise TranscriptError(f"The conversation has no turn {number}", f"its turns are 1 to {len(branch)}")
    wanted = branch if number is None else branch[number - 1 : number]
    if not any(map(can_be_replayed, wanted)):
        raise TranscriptError(
            "There is no reply to run again: none ended with its model and seed recorded", "try another conversation"
        )
    given = {name: value for name, value in flags.items() if value is not None}
    typed = dict(read_option(name, value) for name, value in given.items())
    config = load(given, paths.config_file)
    sampling = {key: value for key, value in typed.items() if key in GenerationParams.__dataclass_fields__}
    tell, output = Diagnostics(), Output()
    found: list[Replayed] = []
    with ctrl_c() as cancel:
        for replayed in replay(
            branch,
            number,
            lambda turn: recorded_backend(
                turn, places.get(turn.model.name) if turn.model else None, config, paths, typed
            ),
            lambda params: replace(params, **sampling),
            lambda event: _show(tell, event),
            cancel,
        ):
            found.append(replayed)
            tell.clear_progress()
            if not as_json:
                output.text(sentence(replayed))
        tell.clear_progress()
        if as_json:
            output.document([_document(one) for one in found])
        return ExitCode.INTERRUPTED if cancel.is_set() else ExitCode.DONE


def _branch(paths: Paths, cid: str) -> tuple[tuple[TurnRecord, ...], dict[str, str]]:
    """The shown turns, and where the file of each model was, by name."""
    from phichat.wiring import store

    kept = store(paths)
    try:
        branch = kept.conversation(kept.find(cid)).branch()
        return branch, {turn.model.name: kept.path_of(turn.model) for turn in branch if turn.model}
    finally:
        kept.close()


def _show(tell: Diagnostics, event: Event) -> None:
    match event:
        case ModelLoading():
            tell.progress(f"loading {event.model} {event.fraction:.0%}")
        case ModelReady():
            if not event.path:
                tell.notice(
                    f"What answers as {event.model.name} is a server's affair; the same answer cannot be promised."
                )
            tell.progress("reading the prompt")
        case PromptProgress():
            tell.progress(
                f"reading {event.done:,} of {event.total:,} tokens" if event.done < event.total else "answering"
            )
        case _:
            pass


def _document(replayed: Replayed) -> dict[str, Any]:
    from phichat.chat.replay import SHOWN_CHARACTERS

    at = replayed.first_difference
    return {
        "turn": replayed.number,
        "identical": at is None,
        "first_difference": at,
        "recorded": None if at is None else replayed.recorded[at : at + SHOWN_CHARACTERS],
        "replayed": None if at is None else replayed.replayed[at : at + SHOWN_CHARACTERS],
        "changed": list(replayed.changed),
        "details": dict(replayed.changed),
    }
