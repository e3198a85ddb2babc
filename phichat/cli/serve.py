"""`phichat serve`: local models over the OpenAI HTTP API."""

from typing import Any

import click

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.options import create_context, keep_alive_option, model_options
from phichat.errors import ExtraNotInstalled, UsageError


@click.command(context_settings={"show_default": True})
@model_options
@keep_alive_option
@click.option("--host", metavar="ADDRESS", help="Address to listen on (default: this machine only).")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="Port (default 1618; 0 = any free port).")
@click.option("--api-key-env", metavar="NAME", help="Environment variable holding the API key clients must send.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Additional Host name to accept, such as a proxy's.")
@click.option("--queue", type=click.IntRange(0, 10_000), default=32, metavar="N", help="Maximum queued requests.")
@click.option(
    "--time-limit", type=click.FloatRange(1, 86_400), default=600, metavar="SECONDS", help="Time limit per answer."
)
@click.option("--log", "record", is_flag=True, help="Save requests and answers in the transcripts.")
@click.option("--debug", is_flag=True, help="Log each request and show tracebacks.")
def serve(
    host: str | None,
    port: int | None,
    api_key_env: str | None,
    allow_host: tuple[str, ...],
    queue: int,
    time_limit: float,
    record: bool,
    debug: bool,
    **flags: Any,
) -> None:
    """Serve local models over an OpenAI-compatible API."""
    context = create_context(**flags)
    try:
        from phichat.server.run import ServeSettings, serve_until_stopped
    except ModuleNotFoundError as error:
        raise ExtraNotInstalled(
            "Serving needs the packages starlette and uvicorn",
            "Install them with `pip install 'phichat-cli[serve]'`",
            detail=str(error),
        ) from None
    options = context.config.serve
    variable = api_key_env or options.api_key_env
    api_key = context.environment.get(variable, "").strip() if variable else ""
    if variable and not (api_key and api_key.isascii() and api_key.isprintable()):
        raise UsageError(f"The variable {variable} holds no usable key", "Set it to the key clients must send")
    settings = ServeSettings(
        host=host or options.host,
        port=options.port if port is None else port,
        api_key=api_key,
        allowed_hosts=(*options.allow_hosts, *allow_host),
        max_waiting=queue,
        time_limit_s=time_limit,
        record=record,
        debug=debug,
    )
    serve_until_stopped(settings, context, Diagnostics().print_notice)
