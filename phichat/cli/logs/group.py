"""`phichat logs`: list and search the transcripts; its subcommands work on single conversations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.lazy_group import LazyGroup
from phichat.cli.support.options import debug_option, json_option, open_transcripts
from phichat.cli.support.output import Output, to_document
from phichat.cli.support.time_range import parse_time_range
from phichat.sanitize import sanitize_line

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationSummary
    from phichat.transcript.search import SearchResults, TurnHit

_COMMANDS = {
    name: f"phichat.cli.logs.{'import_' if name == 'import' else name}:logs_{name}"
    for name in ("backup", "fork", "import", "rename", "replay", "rm", "show", "stats")
}


@click.group(cls=LazyGroup, subcommands=_COMMANDS, invoke_without_command=True)
@click.option("-q", "--query", metavar="WORDS", help='Search. Use "quotes" for a phrase and word* for a prefix.')
@click.option("-n", "--limit", type=click.IntRange(0), default=20, metavar="N", help="Maximum results (0 = all).")
@click.option("-m", "--model", metavar="NAME", help="Filter by model (substring).")
@click.option("--since", metavar="TIME", help="Only since this time: 2026-03-01, yesterday, 7d, 3h.")
@click.option("--until", metavar="TIME", help="Only until this time (a date includes the whole day).")
@click.option("--code-warnings", is_flag=True, help="Only conversations with code warnings.")
@json_option
@debug_option
@click.pass_context
def logs(ctx: click.Context, /, query: str | None, limit: int, as_json: bool, **filters: Any) -> None:
    """List conversations, newest first, or search them."""
    if ctx.invoked_subcommand is not None:
        return
    from phichat.transcript.search import SearchFilters

    now, max_rows = datetime.now().astimezone(), limit or 2**31
    for name, bound in (("since", 0), ("until", 1)):
        filters[name] = parse_time_range(filters[name], now)[bound] if filters[name] else None
    with open_transcripts() as transcripts:
        store = transcripts.get_store()
        if query is None:
            _print_conversations(store.list_conversations(max_rows, SearchFilters(**filters)), as_json=as_json)
        else:
            _print_hits(store.search_turns(query, SearchFilters(**filters), max_rows), as_json=as_json)


def _print_conversations(summaries: Sequence[ConversationSummary], *, as_json: bool) -> None:
    output = Output()
    if as_json:
        return output.write_json([to_document(one) for one in summaries])
    models = [sanitize_line(one.model) for one in summaries]
    width = max(map(len, models), default=0)
    for one, model in zip(summaries, models, strict=True):
        turns = f"{one.turns:>4} turn{'' if one.turns == 1 else 's'}"
        start = f"{one.id}  {format_local_time(one.updated_at)}  {turns:<10}  {model:<{width}}"
        output.write_text(f"{start}  {sanitize_line(one.title)}".rstrip())


def _print_hits(results: SearchResults, *, as_json: bool) -> None:
    output = Output()
    if results.newest_first:
        Diagnostics().print_notice("Thousands of matches: showing the newest instead of the best.")
    if as_json:
        return output.write_json([_to_json(hit) for hit in results.hits])
    for hit in results.hits:
        place = f"{format_local_time(hit.created_at)}  turn {hit.turn_number}, {hit.role}"
        output.write_text(f"{hit.conversation}  {place}  {sanitize_line(hit.title)}")
        output.write_highlighted([("    ", False), *hit.snippet])


def _to_json(hit: TurnHit) -> dict[str, Any]:
    return {
        "id": hit.conversation,
        "title": hit.title,
        "turn": hit.turn_number,
        "turn_id": hit.turn,
        "role": hit.role,
        "snippet": "".join(f"«{text}»" if is_match else text for text, is_match in hit.snippet),
        "created_at": hit.created_at.isoformat(),
    }


def format_local_time(moment: datetime) -> str:
    """Return date, hour and minute in the local time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")
