"""`phichat logs`: what was said before, and the verbs that work on it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.diagnostics import Diagnostics
from phichat.cli.output import Output
from phichat.cli.times import span
from phichat.paths import Paths
from phichat.terminal import clean_line

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationSummary
    from phichat.transcript.search import Filters, Found

_VERBS = ("backup", "fork", "import", "rename", "replay", "rm", "show", "stats")


class _Verbs(click.Group):
    """Imports a verb's module, `logs_VERB`, when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        command: click.Command = getattr(importlib.import_module(f"phichat.cli.logs_{cmd_name}"), f"logs_{cmd_name}")
        return command


@click.group(cls=_Verbs, invoke_without_command=True)
@click.option("-q", "--query", metavar="WORDS", help='Search; "in quotes" one after the other, beg* for beginnings.')
@click.option("-n", "--limit", type=click.IntRange(0), default=20, metavar="N", help="How many; 0 for all.")
@click.option("-m", "--model", metavar="NAME", help="Only this model; a part of its name is enough.")
@click.option("--since", metavar="TIME", help="Only from then on: 2026-03-01, yesterday, 7d, 3h.")
@click.option("--until", metavar="TIME", help="Only until then, a day to its end.")
@click.option("--code-warnings", is_flag=True, help="Only where the code check warned.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.pass_context
def logs(ctx: click.Context, /, query: str | None, limit: int, as_json: bool, **filters: Any) -> None:
    """List conversations, the newest first, or search them."""
    if ctx.invoked_subcommand is not None:
        return
    from phichat.wiring import store

    wanted = _filters(**filters)
    output, kept = Output(), store(Paths.find())
    try:
        most = limit or 2**31
        if query is None:
            _list(output, kept.conversations(most, wanted), as_json=as_json)
        else:
            _show(output, kept.search(query, wanted, most), as_json=as_json)
    finally:
        kept.close()


def _filters(model: str | None, since: str | None, until: str | None, code_warnings: bool) -> Filters:
    from phichat.transcript.search import Filters

    now = datetime.now().astimezone()
    return Filters(
        model,
        since=span(since, now)[0] if since else None,
        until=span(until, now)[1] if until else None,
        code_warnings=code_warnings,
    )


def _list(output: Output, found: Sequence[ConversationSummary], *, as_json: bool) -> None:
    if as_json:
        output.document(
            [
                {
                    "id": one.id,
                    "title": one.title,
                    "model": one.model,
                    "created_at": one.created_at.isoformat(),
                    "updated_at": one.updated_at.isoformat(),
                    "turns": one.turns,
                }
                for one in found
            ]
        )
        return
    width = max((len(clean_line(one.model)) for one in found), default=0)
    for one in found:
        turns = f"{one.turns:>4} turn{'' if one.turns == 1 else 's'}"
        output.text(
            f"{one.id}  {local_time(one.updated_at)}  {turns:<10}  {clean_line(one.model):<{width}}  "
            f"{clean_line(one.title)}".rstrip()
        )


def _show(output: Output, found: Found, *, as_json: bool) -> None:
    if found.newest_first:
        Diagnostics().notice("Thousands of turns match, so the newest are shown first, not the best.")
    if as_json:
        output.document(
            [
                {
                    "id": hit.conversation,
                    "title": hit.title,
                    "turn": hit.number,
                    "turn_id": hit.turn,
                    "role": hit.role,
                    "snippet": "".join(f"«{text}»" if is_match else text for text, is_match in hit.snippet),
                    "created_at": hit.created_at.isoformat(),
                }
                for hit in found.hits
            ]
        )
        return
    for hit in found.hits:
        output.text(
            f"{hit.conversation}  {local_time(hit.created_at)}  turn {hit.number}, {hit.role}  {clean_line(hit.title)}"
        )
        output.marked([("    ", False), *hit.snippet])


def local_time(when: datetime) -> str:
    """To the minute, in the zone of the machine."""
    return when.astimezone().strftime("%Y-%m-%d %H:%M")
