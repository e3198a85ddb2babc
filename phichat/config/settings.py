"""Settings of one run, combined from flags, the environment, config.toml and defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from phichat.config.endpoints import Endpoint
from phichat.errors import ConfigError, UsageError
from phichat.types import SamplingParams

GpuLayers = int | Literal["auto", "all"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of loading a model.

    ctx_size: in tokens; it and the types of the KV cache are None for the best that fits the model and the machine.
    threads: None for the measured optimum, else one per physical core. draft: speculative decoding from the prompt;
    "auto" where `bench --tune` found it faster.
    """

    ctx_size: int | None = None
    n_gpu_layers: GpuLayers = "auto"
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    threads: int | None = None
    draft: Literal["auto", "lookup", "off"] = "auto"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`[serve]` of config.toml: where `phichat serve` listens.

    api_key_env: the variable that holds the API key, "" for none; the key itself is never stored here.
    allow_hosts: additional Host names to accept.
    """

    host: str = "127.0.0.1"
    port: int = 1618
    api_key_env: str = ""
    allow_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one run.

    keep_alive: seconds. state_budget: bytes of KV states on disk, None for a share of the disk. explicit: names of
    the options that a flag, the environment or the file sets.
    """

    model: str | None = None
    system: str | None = None
    log: bool = True
    keep_alive: float = 300.0
    state_budget: int | None = None
    sampling: SamplingParams = field(default_factory=SamplingParams)
    engine: EngineOptions = field(default_factory=EngineOptions)
    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    serve: ServeOptions = field(default_factory=ServeOptions)
    explicit: frozenset[str] = field(default=frozenset(), compare=False)

    def with_model_defaults(self, sampling: Mapping[str, Any]) -> Config:
        """Return these settings with a model's own sampling options where the user set none."""
        model_defaults = {name: value for name, value in sampling.items() if name not in self.explicit}
        return replace(self, sampling=replace(self.sampling, **model_defaults))


_TEXT_OPTIONS = ("model", "system")
_FILE_ONLY_OPTIONS = ("endpoints", "serve")
_ALIASES = {"temp": "temperature", "n_ctx": "ctx_size", "num_ctx": "ctx_size", "n_predict": "max_tokens"}


def parse_option(name: str, value: object) -> tuple[str, Any]:
    """Return the canonical name and the typed value of one option.

    Raises UsageError for an unknown name or an unusable value.
    """
    key = name.lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    if key in _TEXT_OPTIONS and isinstance(value, str):
        return key, value  # `ask -m NAME` need not import the schema
    from phichat.config.schema import OPTIONS

    if key not in OPTIONS:
        from difflib import get_close_matches

        similar = get_close_matches(key, OPTIONS, 1)
        hint = f"Did you mean {similar[0]}? " if similar else ""
        raise UsageError(f"Unknown option {name!r}", f"{hint}The options are " + ", ".join(OPTIONS))
    return key, OPTIONS[key].parse(value, name, UsageError)


def load_config(flags: Mapping[str, object], file: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """Combine flags, environment, config.toml and defaults; the first that sets an option wins.

    flags: option name to value, None where the user gave nothing.
    Raises UsageError for a flag, ConfigError for the environment or the file.
    """
    settings = _read_config_file(file)
    if environ.get("PHICHAT_NO_LOG"):
        settings["log"] = False
    for variable, option in (("PHICHAT_MODEL", "model"), ("PHICHAT_KEEP_ALIVE", "keep_alive")):
        if environ.get(variable):
            try:
                settings[option] = parse_option(option, environ[variable])[1]
            except UsageError as error:
                raise ConfigError(f"{variable}: {error.message}", error.next_step) from None
    settings.update(parse_option(name, value) for name, value in flags.items() if value is not None)

    def select_fields(kind: type) -> dict[str, Any]:
        return {option.name: settings[option.name] for option in fields(kind) if option.name in settings}

    return Config(
        **select_fields(Config),
        sampling=SamplingParams(**select_fields(SamplingParams)),
        engine=EngineOptions(**select_fields(EngineOptions)),
        explicit=frozenset(settings).difference(_FILE_ONLY_OPTIONS),
    )


def _read_config_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error})", "Fix the file or move it away") from error
    import tomllib

    from phichat.config.schema import parse_endpoints, parse_serve_options

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not valid TOML ({error})", "Fix that line") from error
    settings: dict[str, Any] = {}
    for name, value in document.items():
        try:
            if name == "endpoints":
                settings[name] = parse_endpoints(value, file)
            elif name == "serve":
                settings[name] = ServeOptions(**parse_serve_options(value, file))
            else:
                key, parsed = parse_option(name, value)
                settings[key] = parsed
        except UsageError as error:
            raise ConfigError(f"{file}: {error.message}", error.next_step) from error
    return settings
