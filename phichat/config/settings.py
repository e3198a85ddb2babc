"""Settings: flags, then the environment, then config.toml, then defaults, into one frozen value."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from phichat.config.endpoints import Endpoint, parse_endpoints
from phichat.errors import ConfigError, UsageError
from phichat.types import SamplingParams

GpuLayers = int | Literal["auto", "all"]

CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""The types that llama.cpp can keep keys and values in."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a model is loaded. ctx_size in tokens, and the types of the KV cache: None for what suits the model and
    the machine; threads None for what was measured, else one a physical core.

    draft: guess tokens from what was said before: "lookup" always, "auto" where `bench --tune` found that it pays.
    """

    ctx_size: int | None = None
    n_gpu_layers: GpuLayers = "auto"
    cache_type_k: str | None = None
    cache_type_v: str | None = None
    threads: int | None = None
    draft: Literal["auto", "lookup", "off"] = "auto"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """`[serve]`: where `phichat serve` listens. api_key_env: the variable that holds the key, "" for none; the key
    itself is nowhere in here. allow_hosts: further names that clients may use."""

    host: str = "127.0.0.1"
    port: int = 1618
    api_key_env: str = ""
    allow_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set. keep_alive: seconds. state_budget: bytes of KV states on disk, None for what
    suits the disk. given: the names of the options that somebody has set."""

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
        """With a model's own sampling options where nobody has set any."""
        model_defaults = {name: value for name, value in sampling.items() if name not in self.explicit}
        return replace(self, sampling=replace(self.sampling, **model_defaults))


def _int_parser(minimum: int, maximum: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError
        number = int(value)  # type: ignore[call-overload]
        if not minimum <= number <= maximum:
            raise ValueError
        return int(number)

    parse.__doc__ = f"a whole number from {minimum:,} to {maximum:,}"
    return parse


def _float_parser(minimum: float, maximum: float) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)  # type: ignore[arg-type]
        if not minimum <= number <= maximum:  # NaN compares false
            raise ValueError
        return number

    parse.__doc__ = f"a number from {minimum:g} to {maximum:g}"
    return parse


def _parse_text(value: object) -> str:
    """a text"""
    if not isinstance(value, str):
        raise ValueError
    return value


def _parse_bool(value: object) -> bool:
    """true or false"""
    if isinstance(value, bool):
        return value
    return {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}[
        str(value).lower()
    ]


def _parse_cache_type(value: object) -> str:
    if value not in CACHE_TYPES:
        raise ValueError
    return str(value)


_parse_cache_type.__doc__ = "one of " + ", ".join(CACHE_TYPES)


def _parse_gpu_layers(value: object) -> GpuLayers:
    """auto, all, or a number of layers"""
    if value == "auto":
        return "auto"
    if value == "all":
        return "all"
    return _int_parser(0, 10_000)(value)


def _parse_draft(value: object) -> str:
    """auto, lookup or off; a second model cannot draft"""
    if value not in ("auto", "lookup", "off"):
        raise ValueError
    return str(value)


def _parse_duration(value: object) -> float:
    """seconds, or a number with s, m or h"""
    if isinstance(value, str) and value[-1:] in "smh" and value[:-1]:
        return _float_parser(0, 1e6)(value[:-1]) * {"s": 1, "m": 60, "h": 3600}[value[-1]]
    return _float_parser(0, 1e9)(value)


def _parse_size(value: object) -> int:
    """bytes, or a number with KB, MB, GB or TB"""
    if isinstance(value, str) and value[-2:].upper() in _SIZE_UNITS:
        return int(_float_parser(0, 1e6)(value[:-2]) * _SIZE_UNITS[value[-2:].upper()])
    return _int_parser(0, 2**63 - 1)(value)


def _parse_string_list(value: object) -> tuple[str, ...]:
    """a text, or a list of texts"""
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (tuple, list)) or not all(isinstance(text, str) and text for text in texts):
        raise ValueError
    return tuple(texts)


_SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "model": _parse_text,
    "system": _parse_text,
    "log": _parse_bool,
    "keep_alive": _parse_duration,
    "state_budget": _parse_size,
    "temperature": _float_parser(0, 100),
    "top_k": _int_parser(0, 2**31 - 1),
    "top_p": _float_parser(0, 1),
    "min_p": _float_parser(0, 1),
    "repeat_penalty": _float_parser(0.01, 100),
    "repeat_last_n": _int_parser(0, 2**31 - 1),
    "seed": _int_parser(0, 2**32 - 2),
    "max_tokens": _int_parser(1, 2**31 - 1),
    "stop": _parse_string_list,
    "ctx_size": _int_parser(1, 2**31 - 1),
    "n_gpu_layers": _parse_gpu_layers,
    "cache_type_k": _parse_cache_type,
    "cache_type_v": _parse_cache_type,
    "threads": _int_parser(1, 4096),
    "draft": _parse_draft,
}

_SERVE_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "host": _parse_text,
    "port": _int_parser(0, 65_535),
    "api_key_env": _parse_text,
    "allow_hosts": _parse_string_list,
}

_TOP_LEVEL_FIELDS = ("model", "system", "log", "keep_alive", "state_budget", "endpoints", "serve")
"""The fields of Config that are settings themselves."""

_ALIASES = {"temp": "temperature", "n_ctx": "ctx_size", "num_ctx": "ctx_size", "n_predict": "max_tokens"}


def option_names() -> tuple[str, ...]:
    """The names that `-o` takes."""
    field_names = {option.name for option in (*fields(SamplingParams), *fields(EngineOptions))}
    return tuple(name for name in _PARSERS if name in field_names)


def parse_option(name: str, value: object) -> tuple[str, Any]:
    """The canonical name and the typed value of one option.

    Raises UsageError for an unknown name or an unusable value.
    """
    key = name.lower().replace("-", "_")
    key = _ALIASES.get(key, key)
    parser = _PARSERS.get(key)
    if parser is None:
        raise UsageError(f"There is no option {name!r}", "the options are " + ", ".join(option_names()))
    try:
        return key, parser(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise UsageError(f"{name} cannot be {value!r}", f"Give it {parser.__doc__}") from None


def load_config(flags: Mapping[str, object], file: Path, environ: Mapping[str, str] = os.environ) -> Config:
    """The one Config of this run.

    flags: option name to value, None where the user gave nothing.
    Raises UsageError for a flag, ConfigError for the environment or the file.
    """
    settings = _read_config_file(file)
    if environ.get("PHICHAT_MODEL"):
        settings["model"] = environ["PHICHAT_MODEL"]
    if environ.get("PHICHAT_NO_LOG"):
        settings["log"] = False
    if environ.get("PHICHAT_KEEP_ALIVE"):
        try:
            settings["keep_alive"] = _parse_duration(environ["PHICHAT_KEEP_ALIVE"])
        except ValueError:
            raise ConfigError(
                f"PHICHAT_KEEP_ALIVE cannot be {environ['PHICHAT_KEEP_ALIVE']!r}", f"Give it {_parse_duration.__doc__}"
            ) from None
    for name, value in flags.items():
        if value is not None:
            key, parsed = parse_option(name, value)
            settings[key] = parsed

    def select_settings(kind: type) -> dict[str, Any]:
        return {option.name: settings[option.name] for option in fields(kind) if option.name in settings}

    return Config(
        **{name: settings[name] for name in _TOP_LEVEL_FIELDS if name in settings},
        sampling=SamplingParams(**select_settings(SamplingParams)),
        engine=EngineOptions(**select_settings(EngineOptions)),
        explicit=frozenset(settings) - {"endpoints", "serve"},
    )


def _read_config_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read ({error})", "Mend the file or move it away") from error
    import tomllib

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no valid TOML ({error})", "Mend that line") from error
    settings: dict[str, Any] = {}
    for name, value in document.items():
        if name == "endpoints":
            settings[name] = parse_endpoints(value, file)
            continue
        if name == "serve":
            settings[name] = _parse_serve_table(value, file)
            continue
        try:
            key, parsed = parse_option(name, value)
        except UsageError as error:
            raise ConfigError(f"{file}: {error.message}", error.next_step) from error
        settings[key] = parsed
    return settings


def _parse_serve_table(value: object, file: Path) -> ServeOptions:
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: serve is no table", "Write [serve] with its settings under it")
    settings: dict[str, Any] = {}
    for key, setting in value.items():
        parser = _SERVE_PARSERS.get(key)
        if parser is None:
            raise ConfigError(
                f"{file}: serve.{key} is no setting of `phichat serve`",
                "Keep the key in an environment variable and name that by api_key_env"
                if "key" in key
                else "the settings are " + ", ".join(_SERVE_PARSERS),
            )
        try:
            settings[key] = parser(setting)
        except (ValueError, TypeError, OverflowError):
            raise ConfigError(f"{file}: serve.{key} cannot be used", f"Give it {parser.__doc__}") from None
    return ServeOptions(**settings)
