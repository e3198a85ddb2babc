"""`phichat logs stats`: how much there is."""

from __future__ import annotations

import click

from phichat.cli.support.output import Output
from phichat.paths import Paths
from phichat.sanitize import sanitize_line


@click.command("stats")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def logs_stats(as_json: bool) -> None:
    """Count conversations, turns and tokens."""
    from phichat.services.composition import open_store

    transcripts = open_store(Paths.from_environment())
    try:
        stats = transcripts.get_stats()
    finally:
        transcripts.close()
    output = Output()
    if as_json:
        output.write_json(
            {
                "path": stats.path,
                "size": stats.size,
                "conversations": stats.conversations,
                "turns": stats.turns,
                "cut_off": stats.cut_off,
                "models": [
                    {
                        "model": one.model,
                        "turns": one.turns,
                        "prompt_tokens": one.prompt_tokens,
                        "completion_tokens": one.completion_tokens,
                    }
                    for one in stats.models
                ],
            }
        )
        return
    output.write_text(
        f"{stats.conversations:,} conversations with {stats.turns:,} turns ({stats.cut_off:,} without an end) "
        f"in {stats.size / 1e6:,.1f} MB at {stats.path}"
    )
    for one in stats.models:
        output.write_text(
            f"{sanitize_line(one.model) or 'no model'}: {one.turns:,} turns, {one.prompt_tokens:,} prompt tokens, "
            f"{one.completion_tokens:,} generated"
        )
