"""`phichat logs show`: print one conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from phichat.cli.logs.group import format_local_time
from phichat.cli.support.options import json_option, open_transcripts
from phichat.cli.support.output import Output, to_document
from phichat.errors import UsageError
from phichat.sanitize import sanitize, sanitize_line

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationRecord, TurnRecord


@click.command("show")
@click.argument("cid")
@click.option("--branch", metavar="TURN", help="Show the branch ending at this turn ID instead of the current one.")
@json_option
def logs_show(cid: str, branch: str | None, as_json: bool) -> None:
    """Print a conversation's current branch, and list alternative turns. --json has all branches."""
    with open_transcripts() as transcripts:
        conversation = transcripts.get_conversation(cid)
    turns = conversation.get_branch(branch)
    if branch is not None and not turns:
        raise UsageError(f"The conversation has no turn {branch!r}", "Use --json to list the turns")
    document = to_document(conversation) | {"branch": [turn.id for turn in turns]}
    Output().write_result(document, lambda: "\n".join(_format_conversation(conversation, turns)), as_json=as_json)


def _format_conversation(conversation: ConversationRecord, turns: Sequence[TurnRecord]) -> Iterator[str]:
    yield sanitize_line(conversation.title)
    yield f"{conversation.id}, {format_local_time(conversation.created_at)}"
    system, model = None, ""
    for number, turn in enumerate(turns, 1):
        yield ""
        if turn.system != system:
            system = turn.system
            yield f"--- system\n{sanitize(system or '')}\n"
        yield f"--- {number}. you, {format_local_time(turn.created_at)}, turn {turn.id}"
        siblings = [other.id for other in conversation.turns if other.parent == turn.parent and other is not turn]
        if siblings:
            yield f"    alternatives: {', '.join(siblings)} (show with --branch)"
        yield sanitize(turn.prompt).rstrip()
        model = turn.model.name if turn.model else model
        yield f"\n--- {number}. {sanitize_line(model) or 'reply'}"
        if turn.reasoning:
            yield "".join(f"| {line}\n" for line in sanitize(turn.reasoning).splitlines())
        yield sanitize(turn.text).rstrip()
        yield from (f"    [{sanitize_line(note)}]" for note in _list_notes(turn))


def _list_notes(turn: TurnRecord) -> Iterator[str]:
    if turn.live:
        yield "in progress"
    elif turn.is_cut_off:
        yield "cut off: phichat was closed"
    elif turn.finish_reason in ("cancelled", "length"):
        yield "cancelled" if turn.finish_reason == "cancelled" else "stopped at the token limit"
    if turn.error:
        yield turn.error
    if turn.dropped_turns:
        yield f"the oldest {turn.dropped_turns} turns did not fit the context and were not seen"
    if turn.code:
        yield from turn.code.warnings
