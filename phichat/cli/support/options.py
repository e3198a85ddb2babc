"""Options that several verbs share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from phichat.config import settings
from phichat.paths import Paths

CommandFn = Callable[..., Any]

_MODEL_OPTIONS = (
    click.option(
        "-m",
        "--model",
        metavar="MODEL",
        help="A model of `phichat list`, or the path of a GGUF file. NAME or NAME/MODEL, where settings.toml has "
        "[endpoints.NAME], is always that server's; write ./NAME for a path.",
    ),
)
_ENGINE_OPTIONS = (
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
_SAMPLING_OPTIONS = (
    click.option("--temp", "--temperature", "temperature", metavar="T", help="0 decodes greedily."),
    click.option("--top-k", metavar="K", help="Keep the K likeliest tokens."),
    click.option("--top-p", metavar="P", help="Keep the likeliest tokens up to this share."),
    click.option("--min-p", metavar="P", help="Keep tokens at least P times as likely as the likeliest."),
    click.option("--repeat-penalty", metavar="R", help="Above 1 discourages repetition."),
    click.option("--seed", metavar="N", help="Makes a reply repeatable."),
    click.option("--max-tokens", metavar="N", help="End the reply after so many tokens."),
)
_KEEP_ALIVE_OPTIONS = (
    click.option(
        "--keep-alive", metavar="TIME", help="How long the engine stays after the last answer: seconds, 5m, 0 for not."
    ),
)
_DEBUG_OPTIONS = (click.option("--debug", is_flag=True, expose_value=False, help="Show the traceback of an error."),)


def _combine_options(*groups: tuple[Callable[[CommandFn], CommandFn], ...]) -> Callable[[CommandFn], CommandFn]:
    def add_options(command: CommandFn) -> CommandFn:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return add_options


debug_option = _combine_options(_DEBUG_OPTIONS)
engine_options = _combine_options(_ENGINE_OPTIONS, _DEBUG_OPTIONS)
model_and_engine_options = _combine_options(_MODEL_OPTIONS, _ENGINE_OPTIONS, _DEBUG_OPTIONS)
model_options = _combine_options(_MODEL_OPTIONS, _SAMPLING_OPTIONS, _ENGINE_OPTIONS)
keep_alive_option = _combine_options(_KEEP_ALIVE_OPTIONS)
all_options = _combine_options(_MODEL_OPTIONS, _SAMPLING_OPTIONS, _ENGINE_OPTIONS, _DEBUG_OPTIONS)


def build_config(paths: Paths, options: tuple[tuple[str, str], ...] = (), **flags: object) -> settings.Config:
    """The Config of this run. pairs: what `-o KEY VALUE` gave; a flag of the same name comes before it.

    Raises UsageError and ConfigError.
    """
    given: dict[str, object] = dict(settings.parse_option(name, value) for name, value in options)
    given.update((name, value) for name, value in flags.items() if value is not None)
    return settings.load_config(given, paths.config_file)
