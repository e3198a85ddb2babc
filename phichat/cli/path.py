"""`phichat path`: where phichat keeps things."""

from __future__ import annotations

import click

from phichat.cli.support.output import Output
from phichat.paths import Paths

_PATH_NAMES = {
    "config": "config",
    "data": "data",
    "cache": "cache",
    "models": "models",
    "logs": "logs",
    "states": "kv_store",
}
"""What the user calls each place, and the property of Paths that holds it."""


@click.command()
@click.argument("place", type=click.Choice(list(_PATH_NAMES)), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def path(place: str | None, as_json: bool) -> None:
    """Print where settings, transcripts, models and KV states are kept."""
    paths = Paths.from_environment()
    paths_by_name = {name: str(getattr(paths, field)) for name, field in _PATH_NAMES.items()}
    output = Output()
    if as_json:
        output.write_json(paths_by_name if place is None else {place: paths_by_name[place]})
    elif place is not None:
        output.write_text(paths_by_name[place])
    else:
        output.write_text("\n".join(f"{name:<8}{path_text}" for name, path_text in paths_by_name.items()))
