"""`phichat serve`: the models of this machine behind the OpenAI HTTP API."""

from __future__ import annotations

import os
from typing import Any

import click

from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.options import build_config, keep_alive_option, model_options
from phichat.errors import ExtraNotInstalled, UsageError
from phichat.paths import Paths


@click.command()
@model_options
@keep_alive_option
@click.option("--host", metavar="ADDRESS", help="Where to listen; only this machine when not given.")
@click.option("--port", type=click.IntRange(0, 65535), metavar="N", help="1618 when not given; 0 takes a free one.")
@click.option("--api-key-env", metavar="NAME", help="The environment variable with the key that clients have to send.")
@click.option("--allow-host", multiple=True, metavar="NAME", help="A further name clients may use, such as a proxy's.")
@click.option(
    "--queue",
    type=click.IntRange(0, 10_000),
    default=32,
    show_default=True,
    metavar="N",
    help="Requests that may wait.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(1, 86_400),
    default=600,
    show_default=True,
    metavar="SECONDS",
    help="For an answer.",
)
@click.option("--log", "record", is_flag=True, help="Keep what is asked and answered in the transcripts.")
@click.option("--debug", is_flag=True, help="Tell of each request, and show the traceback of an error.")
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
) -> int:
    """Serve the models of this machine to programs that speak the OpenAI API."""
    paths = Paths.from_environment()
    config = build_config(paths, **flags)
    try:
        from phichat.server.run import ServeSettings, serve_until_stopped
    except ModuleNotFoundError as error:
        raise ExtraNotInstalled(
            "Serving needs the packages starlette and uvicorn, which are not installed",
            "Install them with `pip install 'phichat-cli[serve]'`",
            detail=str(error),
        ) from None
    serve_options = config.serve
    settings = ServeSettings(
        host=host or serve_options.host,
        port=serve_options.port if port is None else port,
        api_key=_read_api_key(api_key_env or serve_options.api_key_env),
        allowed_hosts=(*serve_options.allow_hosts, *allow_host),
        max_waiting=queue,
        time_limit_s=time_limit,
        record=record,
        debug=debug,
    )
    serve_until_stopped(settings, config, paths, Diagnostics().print_notice)
    return ExitCode.DONE


def _read_api_key(variable: str) -> str:
    """Raises UsageError."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(f"The variable {variable} holds no key", "Set it to the key that clients shall send")
    return key
