"""`phichat path`: where phichat keeps things."""

from __future__ import annotations

import click

from phichat.cli.output import Output
from phichat.paths import Paths

_PLACES = ("config", "data", "cache", "models", "logs", "states")


@click.command()
@click.argument("place", type=click.Choice(_PLACES), required=False)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def path(place: str | None, as_json: bool) -> None:
    """Print where settings, transcripts, models and KV states are kept."""
    paths = Paths.find()
    places = {name: str(getattr(paths, name)) for name in _PLACES}
    output = Output()
    if as_json:
        output.document(places if place is None else {place: places[place]})
    elif place is not None:
        output.text(places[place])
    else:
        output.text("\n".join(f"{name:<8}{where}" for name, where in places.items()))
