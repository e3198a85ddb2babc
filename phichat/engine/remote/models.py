"""What a server says of itself: its models and their contexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.engine.remote.client import EndpointClient
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind, to_user_error

MODEL_INFO_TIMEOUT_S = 5.0
"""How long an answer waits for what the server says about its models."""


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model as the server tells of it. n_ctx: in tokens, 0 when it does not say."""

    id: str
    n_ctx: int = 0
    owned_by: str = ""


def list_models(endpoint: Endpoint, api_key: str, cancel: CancelToken) -> list[RemoteModel]:
    """What the server has, in its order; empty when cancelled.

    Raises ExtraNotInstalled and EndpointError kinds.
    """
    client = EndpointClient(endpoint, api_key)
    try:
        return fetch_models(client, cancel, endpoint.timeout)
    except RemoteError as error:
        raise to_user_error(error, EndpointModel(endpoint, endpoint.model), api_key, endpoint.timeout) from None
    finally:
        client.close()


def fetch_models(client: EndpointClient, cancel: CancelToken, idle_timeout_s: float) -> list[RemoteModel]:
    """What the server lists; empty when cancelled. Raises Trouble."""
    document = client.get_models(cancel, idle_timeout_s)
    if document is None:
        return []
    entries = document.get("data")
    if not isinstance(entries, list):
        raise RemoteError(RemoteErrorKind.BAD_STREAM, body=document)
    return [_parse_model(entry) for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _parse_model(entry: Mapping[str, Any]) -> RemoteModel:
    meta = entry.get("meta")
    model_fields = {**(meta if isinstance(meta, dict) else {}), **entry}
    # Of vLLM; OpenRouter and others; Groq; LM Studio; llama-server.
    names = ("max_model_len", "context_length", "context_window", "loaded_context_length", "n_ctx")
    n_ctx = next((model_fields[name] for name in names if _is_context_size(model_fields.get(name))), 0)
    owned_by = entry.get("owned_by")
    return RemoteModel(entry["id"], n_ctx, owned_by if isinstance(owned_by, str) else "")


def fetch_llama_server_context(client: EndpointClient, cancel: CancelToken) -> int:
    """In tokens, as one answer may use it; 0 where the server keeps it to itself."""
    try:
        props = client.get_outside_api("/props", cancel, MODEL_INFO_TIMEOUT_S)
    except RemoteError:
        return 0
    settings = props.get("default_generation_settings") if props else None
    n_ctx = settings.get("n_ctx") if isinstance(settings, dict) else 0
    return n_ctx if isinstance(n_ctx, int) and _is_context_size(n_ctx) else 0


def _is_context_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31
