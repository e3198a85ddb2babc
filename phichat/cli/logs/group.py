"""`phichat logs`: what was said before, and the verbs that work on it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.lazy_group import LazyGroup
from phichat.cli.support.output import Output
from phichat.cli.support.time_range import parse_time_range
from phichat.paths import Paths
from phichat.sanitize import sanitize_line

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationSummary
    from phichat.transcript.search import SearchFilters, SearchResults

_COMMANDS = {
    name: f"phichat.cli.logs.{'import_' if name == 'import' else name}:logs_{name}"
    for name in ("backup", "fork", "import", "rename", "replay", "rm", "show", "stats")
}


@click.group(cls=LazyGroup, subcommands=_COMMANDS, aliases={}, invoke_without_command=True)
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
    from phichat.services.composition import open_store

    search_filters = _build_filters(**filters)
    output, transcripts = Output(), open_store(Paths.from_environment())
    try:
        max_rows = limit or 2**31
        if query is None:
            _print_conversations(output, transcripts.list_conversations(max_rows, search_filters), as_json=as_json)
        else:
            _print_hits(output, transcripts.search_turns(query, search_filters, max_rows), as_json=as_json)
    finally:
        transcripts.close()


def _build_filters(model: str | None, since: str | None, until: str | None, code_warnings: bool) -> SearchFilters:
    from phichat.transcript.search import SearchFilters

    now = datetime.now().astimezone()
    return SearchFilters(
        model,
        since=parse_time_range(since, now)[0] if since else None,
        until=parse_time_range(until, now)[1] if until else None,
        code_warnings=code_warnings,
    )


def _print_conversations(output: Output, summaries: Sequence[ConversationSummary], *, as_json: bool) -> None:
    if as_json:
        output.write_json(
            [
                {
                    "id": one.id,
                    "title": one.title,
                    "model": one.model,
                    "created_at": one.created_at.isoformat(),
                    "updated_at": one.updated_at.isoformat(),
                    "turns": one.turns,
                }
                for one in summaries
            ]
        )
        return
    width = max((len(sanitize_line(one.model)) for one in summaries), default=0)
    for one in summaries:
        turns = f"{one.turns:>4} turn{'' if one.turns == 1 else 's'}"
        output.write_text(
            f"{one.id}  {format_local_time(one.updated_at)}  {turns:<10}  {sanitize_line(one.model):<{width}}  "
            f"{sanitize_line(one.title)}".rstrip()
        )


def _print_hits(output: Output, results: SearchResults, *, as_json: bool) -> None:
    if results.newest_first:
        Diagnostics().print_notice("Thousands of turns match, so the newest are shown first, not the best.")
    if as_json:
        output.write_json(
            [
                {
                    "id": hit.conversation,
                    "title": hit.title,
                    "turn": hit.turn_number,
                    "turn_id": hit.turn,
                    "role": hit.role,
                    "snippet": "".join(f"«{text}»" if is_match else text for text, is_match in hit.snippet),
                    "created_at": hit.created_at.isoformat(),
                }
                for hit in results.hits
            ]
        )
        return
    for hit in results.hits:
        output.write_text(
            f"{hit.conversation}  {format_local_time(hit.created_at)}  turn {hit.turn_number}, {hit.role}  {sanitize_line(hit.title)}"
        )
        output.write_highlighted([("    ", False), *hit.snippet])


def format_local_time(moment: datetime) -> str:
    """To the minute, in the zone of the machine."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
