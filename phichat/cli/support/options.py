"""Options that several commands share, and the context that a command makes of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import TYPE_CHECKING, Any

import click

from phichat.config.settings import Config, load_config, parse_option
from phichat.paths import Paths
from phichat.services.app_context import AppContext

if TYPE_CHECKING:
    from phichat.services.transcript_service import TranscriptService

_MODEL_OPTION = click.option(
    "-m",
    "--model",
    metavar="MODEL",
    help="A model of `phichat list`, or the path of a GGUF file. NAME or NAME/MODEL refers to a server configured "
    "under [endpoints.NAME]; use ./NAME for a local path.",
)
_ENGINE_OPTIONS = (
    click.option("--ctx-size", metavar="N", help="Context size in tokens."),
    click.option("--n-gpu-layers", metavar="auto|all|N", help="Layers to offload to the GPU."),
    click.option(
        "--cache-type-k",
        metavar="TYPE",
        help="Type of the KV cache's keys (default: f16, or q8_0 where memory is short).",
    ),
    click.option("--cache-type-v", metavar="TYPE", help="Type of the KV cache's values."),
    click.option("--threads", metavar="N", help="CPU threads (default: the `bench --tune` result, else one per core)."),
    click.option(
        "--draft",
        metavar="auto|lookup|off",
        help="Speculative decoding from the prompt (lookup); auto enables it where `bench --tune` found it faster.",
    ),
)
_SAMPLING_OPTIONS = (
    click.option("--temp", "--temperature", "temperature", metavar="T", help="Sampling temperature (0 = greedy)."),
    click.option("--top-k", metavar="K", help="Keep the K most likely tokens."),
    click.option(
        "--top-p", metavar="P", help="Nucleus sampling: keep the most likely tokens up to probability P in total."
    ),
    click.option("--min-p", metavar="P", help="Keep tokens at least P times as likely as the most likely one."),
    click.option("--repeat-penalty", metavar="R", help="Above 1 discourages repetition."),
    click.option("--seed", metavar="N", help="Random seed, for repeatable replies."),
    click.option("--max-tokens", metavar="N", help="Limit the reply to N tokens."),
)


def _combine_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda command: reduce(lambda function, option: option(function), reversed(options), command)


debug_option = click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
yes_option = click.option("-y", "--yes", is_flag=True, help="Assume yes.")
keep_alive_option = click.option(
    "--keep-alive",
    metavar="TIME",
    help="How long to keep the engine loaded after the last answer (seconds, 5m, ...; 0 = unload at once).",
)
engine_options = _combine_options(*_ENGINE_OPTIONS, debug_option)
model_and_engine_options = _combine_options(_MODEL_OPTION, engine_options)
model_options = _combine_options(_MODEL_OPTION, *_SAMPLING_OPTIONS, *_ENGINE_OPTIONS)
all_options = _combine_options(model_options, debug_option)


def create_context(options: tuple[tuple[str, str], ...] = (), **flags: object) -> AppContext:
    """Return the context of this run: flags, environment, config.toml, defaults.

    options: the pairs of `-o KEY VALUE`; a flag of the same name wins. Raises UsageError and ConfigError.
    """
    paths = Paths.from_environment()
    given = dict(parse_option(name, value) for name, value in options)
    given |= {name: value for name, value in flags.items() if value is not None}
    return AppContext(load_config(given, paths.config_file), paths)


def create_default_context() -> AppContext:
    """Return the context of a command that needs no settings and works even when config.toml is invalid."""
    return AppContext(Config(), Paths.from_environment())


def open_transcripts() -> TranscriptService:
    """Return the transcripts of this user, to be closed by a `with` block."""
    from phichat.services.transcript_service import TranscriptService

    return TranscriptService(create_default_context())
