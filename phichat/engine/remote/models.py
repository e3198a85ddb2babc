"""Models of an endpoint and their context sizes, as the server reports them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.engine.remote.client import EndpointClient
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind, to_user_error

MODEL_INFO_TIMEOUT_S = 5.0
"""How long a turn waits for information about the server's models."""

_CONTEXT_FIELDS = ("max_model_len", "context_length", "context_window", "loaded_context_length", "n_ctx")
"""Of vLLM; OpenRouter and others; Groq; LM Studio; llama-server."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model of a server. n_ctx: in tokens, 0 when the server does not report it."""

    id: str
    n_ctx: int = 0
    owned_by: str = ""


def list_models(endpoint: Endpoint, api_key: str, cancel: CancelToken) -> list[RemoteModel]:
    """Return the models of an endpoint, in the server's order; empty when cancelled. Raises EndpointError kinds."""
    client = EndpointClient(endpoint, api_key)
    try:
        return fetch_models(client, cancel, endpoint.timeout)
    except RemoteError as error:
        raise to_user_error(error, EndpointModel(endpoint, endpoint.model), api_key, endpoint.timeout) from None
    finally:
        client.close()


def fetch_models(client: EndpointClient, cancel: CancelToken, idle_timeout_s: float) -> list[RemoteModel]:
    """Return the models that the server lists; empty when cancelled. Raises RemoteError."""
    document = client.get_models(cancel, idle_timeout_s)
    if document is None:
        return []
    entries = document.get("data")
    if not isinstance(entries, list):
        raise RemoteError(RemoteErrorKind.BAD_STREAM, body=document)
    return [_parse_model(entry) for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _parse_model(entry: Mapping[str, Any]) -> RemoteModel:
    meta, owned_by = entry.get("meta"), entry.get("owned_by")
    fields = {**(meta if isinstance(meta, dict) else {}), **entry}
    n_ctx = next(filter(None, (_parse_context(fields.get(name)) for name in _CONTEXT_FIELDS)), 0)
    return RemoteModel(entry["id"], n_ctx, owned_by if isinstance(owned_by, str) else "")


def fetch_llama_server_context(client: EndpointClient, cancel: CancelToken) -> int:
    """Return the context of one llama-server slot in tokens, 0 when it is not reported."""
    try:
        props = client.get_server_path("/props", cancel, MODEL_INFO_TIMEOUT_S)
    except RemoteError:
        return 0
    settings = props.get("default_generation_settings") if props else None
    return _parse_context(settings.get("n_ctx")) if isinstance(settings, dict) else 0


def _parse_context(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else 0
