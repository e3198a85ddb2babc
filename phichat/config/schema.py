"""The settings that config.toml, the environment, flags and `-o` can hold: one row per setting, checked by msgspec.

Imported only when there is a value to check, because msgspec takes 6 ms to import.
"""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from phichat.config.endpoints import Endpoint
from phichat.errors import ConfigError, PhichatError

_MAX_INT32 = 2**31 - 1
_DURATION_UNITS = {"s": 1, "m": 60, "h": 3600}
_SIZE_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_RESERVED_HEADERS = (
    *("authorization", "api-key", "x-api-key"),
    *("host", "content-length", "content-type", "transfer-encoding", "connection"),
)
_ENDPOINT_NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_HEADER_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"


@dataclass(frozen=True, slots=True)
class Setting:
    """Rule that checks and converts one value.

    type: what msgspec converts to. accepts: the values, for error messages. prepare: applied before the conversion;
    raises ValueError, TypeError or KeyError. is_secret: the value may hold a key, so no message repeats it.
    """

    type: Any
    accepts: str
    prepare: Callable[[Any], object] = lambda value: value
    is_secret: bool = False

    def parse(self, value: object, label: str, error_type: type[PhichatError] = ConfigError) -> Any:
        """Return the typed value. Raises `error_type`, which names the setting as `label`."""
        try:
            return msgspec.convert(self.prepare(value), self.type, strict=False)
        except (ValueError, TypeError, KeyError, OverflowError, msgspec.ValidationError):
            message = f"{label} has an invalid value" if self.is_secret else f"{label} cannot be {value!r}"
            raise error_type(message, f"Use {self.accepts}") from None


def _strip(value: object) -> object:
    return value.strip() if isinstance(value, str) else value


def _to_number(value: object) -> object:
    # msgspec takes only numbers as JSON writes them, and people write .5 too.
    return float(value) if isinstance(value, str) else value


def _integer(minimum: int, maximum: int) -> Setting:
    limits = Meta(ge=minimum, le=maximum)
    return Setting(Annotated[int, limits], f"a whole number from {minimum:,} to {maximum:,}", _strip)


def _number(minimum: float, maximum: float) -> Setting:
    limits = Meta(ge=minimum, le=maximum)
    return Setting(Annotated[float, limits], f"a number from {minimum:g} to {maximum:g}", _to_number)


def _to_bool(value: object) -> object:
    words = {"yes": True, "on": True, "no": False, "off": False}
    return words.get(value.lower(), value) if isinstance(value, str) else value


def _to_seconds(value: object) -> object:
    if isinstance(value, str) and value[-1:] in _DURATION_UNITS:
        return float(value[:-1]) * _DURATION_UNITS[value[-1]]
    return _to_number(value)


def _to_bytes(value: object) -> object:
    if isinstance(value, str) and (unit := value[-2:].upper()) in _SIZE_UNITS:
        return int(float(value[:-2]) * _SIZE_UNITS[unit])
    return _strip(value)


def _to_list(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _clean_text(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError
    return value.strip()


def _split_command(value: object) -> list[str]:
    return shlex.split(_clean_text(value))


def _clean_base_url(value: object) -> str:
    address = _clean_text(value).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    if parts.username is not None or parts.query or parts.fragment or any(char.isspace() for char in address):
        raise ValueError
    return address


def _clean_headers(value: Mapping[str, object]) -> Mapping[str, str]:
    headers = {name: _clean_text(content) for name, content in value.items()}
    for name, content in headers.items():
        if not re.fullmatch(_HEADER_NAME, name) or not content.isascii() or name.lower() in _RESERVED_HEADERS:
            raise ValueError
    return headers


_Duration = Annotated[float, Meta(ge=0, le=1e9)]
_ByteCount = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_GpuLayers = Literal["auto", "all"] | Annotated[int, Meta(ge=0, le=10_000)]
_TextList = tuple[Annotated[str, Meta(min_length=1)], ...]
_CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
_VariableName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_CommandLine = Annotated[tuple[str, ...], Meta(min_length=1)]

_secret = partial(Setting, is_secret=True)
_TEXT = Setting(str, "text in quotes")
_PRINTABLE_TEXT = Setting(str, "text in quotes, without control characters", _clean_text)
_TEXT_LIST = Setting(_TextList, "text in quotes, or a list of such texts", _to_list)
_CACHE_TYPE = Setting(_CacheType, "one of " + ", ".join(get_args(_CacheType)))

OPTIONS: Mapping[str, Setting] = {
    "model": _TEXT,
    "system": _TEXT,
    "log": Setting(bool, "true or false", _to_bool),
    "keep_alive": Setting(_Duration, "seconds, or a duration such as 30s, 5m or 1h", _to_seconds),
    "state_budget": Setting(_ByteCount, "bytes, or a size such as 500MB or 4GB", _to_bytes),
    "temperature": _number(0, 100),
    "top_k": _integer(0, _MAX_INT32),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "repeat_penalty": _number(0.01, 100),
    "repeat_last_n": _integer(0, _MAX_INT32),
    "seed": _integer(0, 2**32 - 2),
    "max_tokens": _integer(1, _MAX_INT32),
    "stop": _TEXT_LIST,
    "ctx_size": _integer(1, _MAX_INT32),
    "n_gpu_layers": Setting(_GpuLayers, "auto, all, or a number of layers"),
    "cache_type_k": _CACHE_TYPE,
    "cache_type_v": _CACHE_TYPE,
    "threads": _integer(1, 4096),
    "draft": Setting(Literal["auto", "lookup", "off"], "auto, lookup or off (draft models are not supported)"),
}
"""The settings at the top level of config.toml, which are also flags and what `-o` takes."""

_SERVE_SETTINGS: Mapping[str, Setting] = {
    "host": _TEXT,
    "port": _integer(0, 65_535),
    "api_key_env": _secret(str, "the name of an environment variable"),
    "allow_hosts": _TEXT_LIST,
}

_ENDPOINT_SETTINGS: Mapping[str, Setting] = {
    "base_url": _secret(
        str, "an address such as http://localhost:8000/v1, without a user, query or fragment", _clean_base_url
    ),
    "api_key_env": _secret(_VariableName, "the name of an environment variable, not the key itself", _clean_text),
    "model": _PRINTABLE_TEXT,
    "headers": _secret(
        dict[str, str], "a table of texts; the key comes from api_key_env or api_key_command", _clean_headers
    ),
    "api_version": _PRINTABLE_TEXT,
    "timeout": _number(1, 86_400),
    "api_key_command": _secret(
        _CommandLine, 'a command that prints the key, such as "pass show lab", with quotes closed', _split_command
    ),
}


def parse_serve_options(value: object, file: Path) -> dict[str, Any]:
    """Parse `[serve]` of config.toml as fields of ServeOptions. Raises ConfigError naming the file and the key."""
    return _parse_table(value, _SERVE_SETTINGS, f"{file}: serve", "Write [serve] and its settings below it")


def parse_endpoints(value: object, file: Path) -> Mapping[str, Endpoint]:
    """Parse `[endpoints]` of config.toml. Raises ConfigError, which names the file and the key."""
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: endpoints must be a table", "Write [endpoints.NAME] and a base_url below it")
    return {name: _parse_endpoint(name, table, f"{file}: endpoints.{name}") for name, table in value.items()}


def _parse_endpoint(name: str, table: object, label: str) -> Endpoint:
    if not re.fullmatch(_ENDPOINT_NAME, name):
        raise ConfigError(f"{label} is not a valid endpoint name", "Use letters, digits and . _ - only")
    values = _parse_table(table, _ENDPOINT_SETTINGS, label, f"Write [endpoints.{name}] and a base_url below it")
    if "base_url" not in values:
        raise ConfigError(f"{label} has no base_url", "Set it to an address such as http://localhost:8000/v1")
    if "api_key_env" in values and "api_key_command" in values:
        raise ConfigError(f"{label} has both api_key_env and api_key_command", "Use only one of them")
    return Endpoint(name, **values)


def _parse_table(value: object, settings: Mapping[str, Setting], label: str, table_hint: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{label} must be a table", table_hint)
    if unknown := [key for key in value if key not in settings]:
        key_hint = "Put the key into an environment variable and set api_key_env to its name"
        next_step = key_hint if "key" in unknown[0] else "Use " + ", ".join(settings)
        raise ConfigError(f"{label}.{unknown[0]} is not a setting", next_step)
    return {key: settings[key].parse(content, f"{label}.{key}") for key, content in value.items()}
