"""`phichat path`: where phichat stores its files."""

import click

from phichat.cli.support.options import json_option
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
"""The argument of the command, and the property of Paths that it means."""


@click.command()
@click.argument("place", type=click.Choice(list(_PATH_NAMES)), required=False)
@json_option
def path(place: str | None, as_json: bool) -> None:
    """Print where settings, transcripts, models and KV states are stored."""
    paths = Paths.from_environment()
    names = _PATH_NAMES if place is None else {place: _PATH_NAMES[place]}
    document = {name: str(getattr(paths, attribute)) for name, attribute in names.items()}
    Output().write_result(
        document,
        lambda: document[place] if place else "\n".join(f"{name:<8}{value}" for name, value in document.items()),
        as_json=as_json,
    )
