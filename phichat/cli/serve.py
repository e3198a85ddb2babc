"""`phichat serve`: the models of this machine behind the OpenAI HTTP API."""

from __future__ import annotations

import os
from typing import Any

import click

from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.options import configure, keep_alive_option, model_options
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
@click.option("--log", "keeps", is_flag=True, help="Keep what is asked and answered in the transcripts.")
@click.option("--debug", is_flag=True, help="Tell of each request, and show the traceback of an error.")
def serve(
    host: str | None,
    port: int | None,
    api_key_env: str | None,
    allow_host: tuple[str, ...],
    queue: int,
    time_limit: float,
    keeps: bool,
    debug: bool,
    **flags: Any,
) -> int:
    """Serve the models of this machine to programs that speak the OpenAI API."""
    paths = Paths.find()
    config = configure(paths, **flags)
    try:
        from phichat.server.serving import Serving, serve_until_stopped
    except ModuleNotFoundError as why:
        raise ExtraNotInstalled(
            "Serving needs the packages starlette and uvicorn, which are not installed",
            "install them with `pip install 'phichat-cli[serve]'`",
            detail=str(why),
        ) from None
    said = config.serve
    wanted = Serving(
        host=host or said.host,
        port=said.port if port is None else port,
        key=_key(api_key_env or said.api_key_env),
        allowed=(*said.allow_hosts, *allow_host),
        waiting=queue,
        time_limit_s=time_limit,
        keeps=keeps,
        debug=debug,
    )
    serve_until_stopped(wanted, config, paths, Diagnostics().notice)
    return ExitCode.DONE


def _key(variable: str) -> str:
    """Raises UsageError."""
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key or not key.isascii() or not key.isprintable():
        raise UsageError(f"The variable {variable} holds no key", "set it to the key that clients shall send")
    return key
