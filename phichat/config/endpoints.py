"""Servers that the user named: `[endpoints.NAME]` of config.toml."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from phichat.errors import ConfigError

_KEY_COMMAND_TIMEOUT_S = 60.0
"""Long enough for a command that asks the user for a password or a fingerprint."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that speaks the OpenAI HTTP API.

    base_url: up to and including `/v1`, as in the OpenAI clients. api_key_env: the variable that holds the API key,
    or api_key_command: the command that prints it; both empty for none, and the key itself is never stored here.
    model: the default model, "" for the server's own. api_version: for Azure. timeout: seconds without data after
    which the server counts as unreachable.
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
    """A model of an endpoint; model "" leaves the choice to the server."""

    endpoint: Endpoint
    model: str

    @property
    def name(self) -> str:
        """The name that `-m` takes."""
        return f"{self.endpoint.name}/{self.model}" if self.model else self.endpoint.name


def parse_endpoint_model(model: str | None, endpoints: Mapping[str, Endpoint]) -> EndpointModel | None:
    """Parse `NAME` or `NAME/model`; return None when NAME is not an endpoint.

    The names of endpoints win over models and paths, so that nothing on a disk or in a registry changes what a
    command means; `./NAME` is always a path.
    """
    if model is None:
        return None
    name, _, model_name = model.partition("/")
    endpoint = endpoints.get(name)
    return EndpointModel(endpoint, model_name or endpoint.model) if endpoint else None


def resolve_api_key(endpoint: Endpoint, environment: Mapping[str, str]) -> str:
    """Return the endpoint's API key, "" if it has none. Raises ConfigError, which repeats nothing of the key.

    The command is run without a shell and without the user's stdin; the first line of its output is the key. The
    rest of its output is never shown, because it may contain the key.
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
        raise ConfigError(f"{source} does not give a usable API key", "Check its value")
    return key


def _run_key_command(command: tuple[str, ...], source: str) -> str:
    import subprocess

    next_step = "Run it by hand to see why"
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
        raise ConfigError(f"{source} did not finish within {_KEY_COMMAND_TIMEOUT_S:g} s", next_step) from None
    except OSError as error:
        raise ConfigError(f"{source} cannot be run ({error.strerror})", "Check its spelling") from None
    if completed.returncode:
        raise ConfigError(f"{source} failed with status {completed.returncode}", next_step)
    key = completed.stdout.decode("utf-8", "replace").partition("\n")[0].strip()
    if not key:
        raise ConfigError(f"{source} printed no key", next_step)
    return key
