"""Servers that the user has named: `[endpoints.NAME]` of config.toml."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phichat.errors import ConfigError

_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_VARIABLE_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_HEADER_NAME_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_KEY_COMMAND_TIMEOUT_S = 60.0
"""Whoever asks for a password or a fingerprint needs that long."""

_AUTH_HEADERS = ("authorization", "api-key", "x-api-key")
_TRANSPORT_HEADERS = ("host", "content-length", "content-type", "transfer-encoding", "connection")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that speaks the OpenAI HTTP API.

    base_url: up to and with `/v1`, as in the OpenAI clients. api_key_env: the variable that holds the key, or
    api_key_command: what is run to get it, both empty for none; the key itself is nowhere in here. model: the
    default one, "" for what the server has. api_version: of Azure. timeout: seconds of silence after which the
    server counts as gone.
    """

    name: str
    base_url: str
    api_key_env: str = ""
    model: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    api_version: str = ""
    timeout: float = 300.0
    api_key_command: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class EndpointModel:
    """A model of an endpoint; model "" leaves it to the server."""

    endpoint: Endpoint
    model: str

    @property
    def name(self) -> str:
        """What `-m` takes for it."""
        return f"{self.endpoint.name}/{self.model}" if self.model else self.endpoint.name


def parse_endpoint_model(model: str | None, endpoints: Mapping[str, Endpoint]) -> EndpointModel | None:
    """The endpoint's model that is meant by `NAME` or `NAME/model`; None when NAME is no endpoint.

    An endpoint's name comes before models and paths of that name, so that nothing on a disk or in a registry
    changes what a command means; `./NAME` is always a path.
    """
    if model is None:
        return None
    name, _, model_name = model.partition("/")
    endpoint = endpoints.get(name)
    return EndpointModel(endpoint, model_name or endpoint.model) if endpoint else None


def _parse_text(value: object) -> str:
    """a text"""
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise ValueError
    return value.strip()


def _parse_base_url(value: object) -> str:
    """an address such as http://localhost:8000/v1, without a user, a query or a fragment"""
    address = _parse_text(value).rstrip("/")
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError
    if parts.username is not None or parts.query or parts.fragment or any(char.isspace() for char in address):
        raise ValueError
    return address


def _parse_variable_name(value: object) -> str:
    """the name of an environment variable, not the key itself"""
    if not _VARIABLE_PATTERN.fullmatch(_parse_text(value)):
        raise ValueError
    return _parse_text(value)


def _parse_command(value: object) -> tuple[str, ...]:
    """a command that writes the key to its standard output, such as "pass show lab", with quotes closed"""
    words = tuple(shlex.split(_parse_text(value)))
    if not words:
        raise ValueError
    return words


def _parse_headers(value: object) -> Mapping[str, str]:
    """a table of texts; the key comes by api_key_env or api_key_command"""
    if not isinstance(value, dict):
        raise ValueError
    headers = {name: _parse_text(content) for name, content in value.items()}
    for name, content in headers.items():
        if not _HEADER_NAME_PATTERN.fullmatch(name) or not content.isascii():
            raise ValueError
        if name.lower() in (*_AUTH_HEADERS, *_TRANSPORT_HEADERS):
            raise ValueError
    return headers


def _parse_timeout(value: object) -> float:
    """a number of seconds from 1 to 86,400"""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 1 <= value <= 86_400:
        raise ValueError
    return float(value)


_PARSERS: Mapping[str, Callable[[object], Any]] = {
    "base_url": _parse_base_url,
    "api_key_env": _parse_variable_name,
    "model": _parse_text,
    "headers": _parse_headers,
    "api_version": _parse_text,
    "timeout": _parse_timeout,
    "api_key_command": _parse_command,
}
_REDACTED_SETTINGS = ("api_key_env", "api_key_command", "headers", "base_url")
"""Where a key may have been put by mistake: a message must not repeat it."""


def parse_endpoints(value: object, file: Path) -> Mapping[str, Endpoint]:
    """What `[endpoints]` of config.toml holds. Raises ConfigError, which names the file and the key."""
    if not isinstance(value, dict):
        raise ConfigError(f"{file}: endpoints is no table", "Write [endpoints.NAME] with a base_url under it")
    return {name: _parse_endpoint(name, table, file) for name, table in value.items()}


def _parse_endpoint(name: str, table: object, file: Path) -> Endpoint:
    location = f"{file}: endpoints.{name}"
    if not _NAME_PATTERN.fullmatch(name):
        raise ConfigError(f"{location} is no name for an endpoint", "Use letters, digits and . _ - only")
    if not isinstance(table, dict):
        raise ConfigError(f"{location} is no table", f"Write [endpoints.{name}] with a base_url under it")
    settings: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _PARSERS:
            settings_hint = "the settings are " + ", ".join(_PARSERS)
            key_hint = "name the environment variable that holds it by api_key_env, or give an api_key_command"
            raise ConfigError(
                f"{location}.{key} is no setting of an endpoint",
                key_hint if key in ("api_key", "key") else settings_hint,
            )
        try:
            settings[key] = _PARSERS[key](value)
        except ValueError:
            shown_value = "this" if key in _REDACTED_SETTINGS else repr(value)
            raise ConfigError(f"{location}.{key} cannot be {shown_value}", f"Give it {_PARSERS[key].__doc__}") from None
    if "base_url" not in settings:
        raise ConfigError(f"{location} has no base_url", "Give it an address such as http://localhost:8000/v1")
    if {"api_key_env", "api_key_command"} <= set(settings):
        raise ConfigError(f"{location} has an api_key_env and an api_key_command", "Keep one of them")
    return Endpoint(name, **settings)


def resolve_api_key(endpoint: Endpoint, environment: Mapping[str, str]) -> str:
    """The endpoint's key, "" where it has none. Raises ConfigError, which repeats nothing of it.

    A command is run as it is, without a shell, and sees nothing of what is piped in; the first line it writes is
    the key. What else it says is not shown, because nobody knows whether a key is in it.
    """
    if endpoint.api_key_command:
        source = f"The api_key_command under [endpoints.{endpoint.name}]"
        key = _run_key_command(endpoint.api_key_command, source)
    elif endpoint.api_key_env:
        source = f"The variable {endpoint.api_key_env}"
        key = environment.get(endpoint.api_key_env, "").strip()
    else:
        return ""
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"{source} gives something that no server takes as a key", "See what it holds")
    return key


def _run_key_command(command: tuple[str, ...], source: str) -> str:
    import subprocess

    next_step = "run it by hand to see what it says"
    try:
        completed = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_KEY_COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{source} has not ended within {_KEY_COMMAND_TIMEOUT_S:g} s", next_step) from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be run ({error.strerror})", "Check how it is written") from None
    if completed.returncode:
        raise ConfigError(f"{source} has ended with status {completed.returncode}", next_step)
    key = completed.stdout.decode("utf-8", "replace").partition("\n")[0].strip()
    if not key:
        raise ConfigError(f"{source} has written no key", next_step)
    return key
