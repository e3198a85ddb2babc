"""`phichat logs stats`: totals of the transcripts."""

import click

from phichat.cli.support.options import json_option, open_transcripts
from phichat.cli.support.output import Output, to_document
from phichat.sanitize import sanitize_line
from phichat.units import format_count


@click.command("stats")
@json_option
def logs_stats(as_json: bool) -> None:
    """Count conversations, turns and tokens."""
    with open_transcripts() as transcripts:
        stats = transcripts.get_store().get_stats()
    size = f"{stats.size / 1e6:,.1f} MB at {stats.path}"
    totals = f"{format_count(stats.conversations, 'conversation')} with {format_count(stats.turns, 'turn')}"
    lines = (
        f"{sanitize_line(one.model) or 'unknown model'}: {format_count(one.turns, 'turn')}, "
        f"{one.prompt_tokens:,} prompt tokens, {one.completion_tokens:,} generated"
        for one in stats.models
    )
    text = "\n".join([f"{totals} ({stats.cut_off:,} unfinished) in {size}", *lines])
    Output().write_result(to_document(stats), lambda: text, as_json=as_json)
