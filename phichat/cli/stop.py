"""`phichat stop`: the engines that stay are to leave."""

from __future__ import annotations

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import debug_option
from phichat.cli.support.output import Output
from phichat.errors import UsageError
from phichat.paths import Paths


@click.command()
@click.argument("model", required=False)
@click.option("--all", "all_", is_flag=True, help="All of them, as without MODEL.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
@debug_option
def stop(model: str | None, all_: bool, as_json: bool) -> int:
    """End the engine that stays with MODEL in it, or all of them, whatever they have to do."""
    if model is not None and all_:
        raise UsageError("--all and a model exclude each other", "Give one of them")
    from phichat.services.composition import stop_engines

    stopped_engines = stop_engines(Paths.from_environment(), model)
    if as_json:
        Output().write_json([{"pid": one.pid, "model": one.model_name} for one in stopped_engines])
        return ExitCode.DONE
    diagnostics = Diagnostics()
    for one in stopped_engines:
        diagnostics.print_notice(f"Stopped {one.model_name or 'an engine'} ({one.pid}).")
    if not stopped_engines:
        diagnostics.print_notice(f"No engine with {model} is there." if model else "No engine is there.")
    return ExitCode.DONE
