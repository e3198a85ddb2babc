"""`phichat logs show`: one conversation, to be read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.logs.group import format_local_time
from phichat.cli.support.output import Output
from phichat.errors import UsageError
from phichat.paths import Paths
from phichat.sanitize import sanitize, sanitize_line

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationRecord, TurnRecord


@click.command("show")
@click.argument("cid")
@click.option("--branch", metavar="TURN", help="Up to this turn, by its id, instead of where the conversation stands.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, with all branches.")
def logs_show(cid: str, branch: str | None, as_json: bool) -> None:
    """Print a conversation: the branch where it stands, and which turns stand beside it."""
    from phichat.services.composition import open_store

    transcripts = open_store(Paths.from_environment())
    try:
        conversation = transcripts.get_conversation(transcripts.find_id(cid))
    finally:
        transcripts.close()
    turns = conversation.get_branch(branch)
    if branch is not None and not turns:
        raise UsageError(f"The conversation has no turn {branch!r}", "See the turns with --json")
    if as_json:
        document = asdict(conversation, dict_factory=_to_json_dict)
        Output().write_json({**document, "branch": [turn.id for turn in turns]})
    else:
        Output().write_text("\n".join(_format_conversation(conversation, turns)))


def _to_json_dict(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in pairs}


def _format_conversation(conversation: ConversationRecord, turns: tuple[TurnRecord, ...]) -> Iterator[str]:
    yield sanitize_line(conversation.title)
    yield f"{conversation.id}, {format_local_time(conversation.created_at)}"
    system, model = None, ""
    for number, turn in enumerate(turns, 1):
        yield ""
        if turn.system != system:
            system = turn.system
            yield f"--- system\n{sanitize(system or '')}\n"
        yield f"--- {number}. you, {format_local_time(turn.created_at)}, turn {turn.id}"
        if sibling_ids := [
            other.id for other in conversation.turns if other.parent == turn.parent and other is not turn
        ]:
            yield f"    beside it: {', '.join(sibling_ids)} (show with --branch)"
        yield sanitize(turn.prompt).rstrip()
        model = turn.model.name if turn.model else model
        yield f"\n--- {number}. {sanitize_line(model) or 'reply'}"
        if turn.reasoning:
            yield "".join(f"| {line}\n" for line in sanitize(turn.reasoning).splitlines())
        yield sanitize(turn.text).rstrip()
        yield from (f"    {remark}" for remark in _format_notes(turn))


def _format_notes(turn: TurnRecord) -> Iterator[str]:
    if turn.live:
        yield "[it is being written]"
    elif turn.is_cut_off:
        yield "[cut off: phichat was ended in the middle of it]"
    elif turn.finish_reason in ("cancelled", "length"):
        yield "[cancelled]" if turn.finish_reason == "cancelled" else "[its length was limited]"
    if turn.error:
        yield f"[{sanitize_line(turn.error)}]"
    if turn.dropped_turns:
        yield f"[the oldest {turn.dropped_turns} turns did not fit the context and were not seen]"
    for warning in turn.code.warnings if turn.code else ():
        yield f"[{sanitize_line(warning)}]"
