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
    from phichat.engine.backend import Backend
    from phichat.transcript.records import TurnRecord

_CONTEXT = 40
"""Characters that are shown from a difference on."""


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
    from phichat.chat.replay import can_be_replayed, replay

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
    sampling = {key: value for key, value in _typed(given).items() if key in GenerationParams.__dataclass_fields__}
    tell, output = Diagnostics(), Output()
    found: list[Replayed] = []
    with ctrl_c() as cancel:
        for replayed in replay(
            branch,
            number,
            lambda turn: _backend(turn, given, places, paths),
            lambda params: replace(params, **sampling),
            lambda event: _show(tell, event),
            cancel,
        ):
            found.append(replayed)
            tell.clear_progress()
            if not as_json:
                output.text(_sentence(replayed))
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


def _typed(given: dict[str, Any]) -> dict[str, Any]:
    return dict(read_option(name, value) for name, value in given.items())


def _backend(turn: TurnRecord, given: dict[str, Any], places: dict[str, str], paths: Paths) -> Backend:
    """The recorded model, loaded as it was then but for the flags."""
    from phichat.wiring import leading_to, local_backend, remote_backend

    config = load(given, paths.config_file)
    model = turn.model
    assert model is not None
    recorded: dict[str, Any] = {
        "ctx_size": turn.n_ctx or model.n_ctx or None,
        "threads": model.threads or None,
        "cache_type_k": model.cache_type_k or None,
        "cache_type_v": model.cache_type_v or None,
        "n_gpu_layers": model.n_gpu_layers if model.n_layers else None,
    }
    asked_for = _typed(given)
    kept = {key: value for key, value in recorded.items() if value is not None and key not in asked_for}
    name = given.get("model") or leading_to(model.name, (places.get(model.name), config.model), config, paths)
    if remote := remote_backend(replace(config, model=name)):
        Diagnostics().notice(f"What answers as {name} is a server's affair; the same answer cannot be promised.")
        return remote
    return local_backend(replace(config, model=name, engine=replace(config.engine, **kept)), paths)


def _show(tell: Diagnostics, event: Event) -> None:
    match event:
        case ModelLoading():
            tell.progress(f"loading {event.model} {event.fraction:.0%}")
        case ModelReady():
            tell.progress("reading the prompt")
        case PromptProgress():
            tell.progress(
                f"reading {event.done:,} of {event.total:,} tokens" if event.done < event.total else "answering"
            )
        case _:
            pass


def _sentence(replayed: Replayed) -> str:
    changed = "".join(f"\n  {name}: {what}" for name, what in replayed.changed.items())
    at = replayed.first_difference
    if at is None:
        return f"Turn {replayed.number}: identical, {len(replayed.recorded):,} characters{changed}"
    then, now = (text[at : at + _CONTEXT] for text in (replayed.recorded, replayed.replayed))
    lines = f"\n  then: {then!r}\n  now:  {now!r}"
    unchanged = "" if changed else "\n  nothing that is recorded has changed"
    return f"Turn {replayed.number}: differs from character {at:,} on{lines}{changed}{unchanged}"


def _document(replayed: Replayed) -> dict[str, Any]:
    at = replayed.first_difference
    return {
        "turn": replayed.number,
        "identical": at is None,
        "first_difference": at,
        "recorded": None if at is None else replayed.recorded[at : at + _CONTEXT],
        "replayed": None if at is None else replayed.replayed[at : at + _CONTEXT],
        "changed": list(replayed.changed),
        "details": dict(replayed.changed),
    }
