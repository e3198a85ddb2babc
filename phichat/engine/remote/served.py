"""What a server says of itself: its models and their contexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from phichat.endpoints import Endpoint, Served
from phichat.engine.cancel import Cancel
from phichat.engine.remote.server import Server
from phichat.engine.remote.trouble import Kind, Trouble, explain

ABOUT_S = 5.0
"""How long an answer waits for what the server says about its models."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as the server tells of it. n_ctx: in tokens, 0 when it does not say."""

    id: str
    n_ctx: int = 0
    owned_by: str = ""


def served_models(endpoint: Endpoint, key: str, cancel: Cancel) -> list[ServedModel]:
    """What the server has, in its order; empty when cancelled.

    Raises ExtraNotInstalled and EndpointError kinds.
    """
    server = Server(endpoint, key)
    try:
        return models_of(server, cancel, endpoint.timeout)
    except Trouble as trouble:
        raise explain(trouble, Served(endpoint, endpoint.model), key, endpoint.timeout) from None
    finally:
        server.close()


def models_of(server: Server, cancel: Cancel, silence_s: float) -> list[ServedModel]:
    """What the server lists; empty when cancelled. Raises Trouble."""
    document = server.models(cancel, silence_s)
    if document is None:
        return []
    listed = document.get("data")
    if not isinstance(listed, list):
        raise Trouble(Kind.BAD_STREAM, body=document)
    return [_model(entry) for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _model(entry: Mapping[str, Any]) -> ServedModel:
    meta = entry.get("meta")
    tells = {**(meta if isinstance(meta, dict) else {}), **entry}
    # Of vLLM; OpenRouter and others; Groq; LM Studio; llama-server.
    names = ("max_model_len", "context_length", "context_window", "loaded_context_length", "n_ctx")
    n_ctx = next((tells[name] for name in names if _is_context(tells.get(name))), 0)
    owner = entry.get("owned_by")
    return ServedModel(entry["id"], n_ctx, owner if isinstance(owner, str) else "")


def context_of_llama_server(server: Server, cancel: Cancel) -> int:
    """In tokens, as one answer may use it; 0 where the server keeps it to itself."""
    try:
        said = server.beside_api("/props", cancel, ABOUT_S)
    except Trouble:
        return 0
    settings = said.get("default_generation_settings") if said else None
    n_ctx = settings.get("n_ctx") if isinstance(settings, dict) else 0
    return n_ctx if isinstance(n_ctx, int) and _is_context(n_ctx) else 0


def _is_context(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31
