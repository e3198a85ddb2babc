"""`phichat stop`: stop running engines."""

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import create_default_context, debug_option, json_option
from phichat.cli.support.output import Output
from phichat.errors import UsageError


@click.command()
@click.argument("model", required=False)
@click.option("--all", "all_", is_flag=True, help="Stop all engines (the default).")
@json_option
@debug_option
def stop(model: str | None, all_: bool, as_json: bool) -> None:
    """Stop the engine running MODEL, or all engines, even if busy."""
    from phichat.services.daemon_service import stop_engines

    if model is not None and all_:
        raise UsageError("--all and a model exclude each other", "Use only one of them")
    stopped = stop_engines(create_default_context(), model)
    if as_json:
        return Output().write_json([{"pid": engine.pid, "model": engine.model_name} for engine in stopped])
    diagnostics = Diagnostics()
    for engine in stopped:
        diagnostics.print_notice(f"Stopped {engine.model_name or 'an engine'} ({engine.pid}).")
    if not stopped:
        diagnostics.print_notice(f"No engine is running {model}." if model else "No engine is running.")
