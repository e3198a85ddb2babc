"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from phichat import config
from phichat.paths import Paths

Command = Callable[..., Any]

_MODEL = (
    click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A model of `phichat list`, or the path of a GGUF file. NAME or NAME/MODEL, where config.toml has "
        "[endpoints.NAME], is always that server's; write ./NAME for a path.",
    ),
)
_ENGINE = (
    click.option("--ctx-size", metavar="N", help="Context in tokens."),
    click.option("--n-gpu-layers", metavar="auto|all|N", help="Layers that go to the GPU."),
    click.option(
        "--cache-type-k",
        metavar="TYPE",
        help="Type of the KV cache's keys; default: f16, or q8_0 where memory is short.",
    ),
    click.option("--cache-type-v", metavar="TYPE", help="Type of the KV cache's values."),
    click.option("--threads", metavar="N", help="CPU threads; default: as `bench --tune` found, else one a core."),
    click.option(
        "--draft",
        metavar="auto|lookup|off",
        help="Guess tokens from what was said before; auto: where `bench --tune` found that it pays.",
    ),
)
_SAMPLING = (
    click.option("--temp", "--temperature", "temperature", metavar="T", help="0 decodes greedily."),
    click.option("--top-k", metavar="K", help="Keep the K likeliest tokens."),
    click.option("--top-p", metavar="P", help="Keep the likeliest tokens up to this share."),
    click.option("--min-p", metavar="P", help="Keep tokens at least P times as likely as the likeliest."),
    click.option("--repeat-penalty", metavar="R", help="Above 1 discourages repetition."),
    click.option("--seed", metavar="N", help="Makes a reply repeatable."),
    click.option("--max-tokens", metavar="N", help="End the reply after so many tokens."),
)
_KEEP_ALIVE = (
    click.option(
        "--keep-alive", metavar="TIME", help="How long the engine stays after the last answer: seconds, 5m, 0 for not."
    ),
)
_DEBUG = (click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),)


def _with(*groups: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    def decorate(command: Command) -> Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate


debug_option = _with(_DEBUG)
engine_options = _with(_ENGINE, _DEBUG)
model_and_engine_options = _with(_MODEL, _ENGINE, _DEBUG)
model_options = _with(_MODEL, _SAMPLING, _ENGINE)
keep_alive_option = _with(_KEEP_ALIVE)
all_options = _with(_MODEL, _SAMPLING, _ENGINE, _DEBUG)


def configure(paths: Paths, pairs: tuple[tuple[str, str], ...] = (), **flags: object) -> config.Config:
    """The Config of this run. pairs: what `-o KEY VALUE` gave; a flag of the same name comes before it.

    Raises UsageError and ConfigError.
    """
    given: dict[str, object] = dict(config.read_option(name, value) for name, value in pairs)
    given.update((name, value) for name, value in flags.items() if value is not None)
    return config.load(given, paths.config_file)
