"""HTTP client of an endpoint, for callers that must be able to leave at once, and the models that a server lists."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind, parse_count, to_user_error
from phichat.engine.remote.request_thread import GetTimeout, RequestThread
from phichat.engine.remote.sse import JsonObject

if TYPE_CHECKING:
    from httpx2 import Client

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


class EndpointClient:
    """Client of one endpoint. Opens no connection before a request; every request raises RemoteError."""

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        """api_key: "" for none."""
        self._endpoint, self._api_key = endpoint, api_key
        self._http_client: Client | None = None

    def stream_completion(
        self, body: JsonObject, cancel: CancelToken, get_idle_timeout: GetTimeout
    ) -> Generator[JsonObject, None, None]:
        """Yield the JSON documents of a chat completion as they arrive; ends early when cancelled.

        get_idle_timeout: returns the seconds that the server may be silent at this point.
        """
        base_url = self._endpoint.base_url
        if self._endpoint.api_version and not urlsplit(base_url).path:
            # A dated API of Azure OpenAI names the model in the path.
            base_url += f"/openai/deployments/{quote(body['model'], safe='')}"
        return self._send("POST", f"{base_url}/chat/completions", body, cancel, get_idle_timeout)

    def fetch_models(self, cancel: CancelToken, idle_timeout_s: float) -> list[RemoteModel]:
        """Return the models that the server lists; empty when cancelled."""
        document = self._get(f"{self._endpoint.base_url}/models", cancel, idle_timeout_s)
        entries = [] if document is None else document.get("data")
        if not isinstance(entries, list):
            raise RemoteError(RemoteErrorKind.BAD_STREAM, body=document)
        return [_parse_model(one) for one in entries if isinstance(one, dict) and isinstance(one.get("id"), str)]

    def fetch_llama_server_context(self, cancel: CancelToken) -> int:
        """Return the context of one llama-server slot in tokens, 0 when it is not reported."""
        url = self._endpoint.base_url.removesuffix("/v1") + "/props"
        try:
            props = self._get(url, cancel, MODEL_INFO_TIMEOUT_S) or {}
        except RemoteError:
            return 0
        settings = props.get("default_generation_settings")
        return parse_count(settings.get("n_ctx")) if isinstance(settings, dict) else 0

    def close(self) -> None:
        """Close the connections; the client can be used again."""
        if self._http_client is not None:
            self._http_client.close()
            self._http_client = None

    def _get(self, url: str, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        return next(self._send("GET", url, None, cancel, lambda: idle_timeout_s), None)

    def _send(
        self, method: str, url: str, body: JsonObject | None, cancel: CancelToken, get_idle_timeout: GetTimeout
    ) -> Generator[JsonObject, None, None]:
        def run_request(thread: RequestThread) -> None:
            # Imported in the thread: importing httpx2 and reading certificates takes longer than a cancel may.
            from phichat.engine.remote import http_transport

            client = self._http_client or http_transport.create_client(self._endpoint, self._api_key)
            self._http_client = client
            thread.mark_sent()
            if not thread.is_abandoned:
                http_transport.send(client, method, url, body, thread)

        return RequestThread(run_request).stream(cancel, get_idle_timeout)


def _parse_model(entry: Mapping[str, Any]) -> RemoteModel:
    meta, owned_by = entry.get("meta"), entry.get("owned_by")
    fields = {**(meta if isinstance(meta, dict) else {}), **entry}
    n_ctx = next(filter(None, (parse_count(fields.get(name)) for name in _CONTEXT_FIELDS)), 0)
    return RemoteModel(entry["id"], n_ctx, owned_by if isinstance(owned_by, str) else "")


def list_models(endpoint: Endpoint, api_key: str, cancel: CancelToken) -> list[RemoteModel]:
    """Return the models of an endpoint, in the server's order; empty when cancelled. Raises EndpointError kinds."""
    try:
        with closing(EndpointClient(endpoint, api_key)) as client:
            return client.fetch_models(cancel, endpoint.timeout)
    except RemoteError as error:
        raise to_user_error(error, EndpointModel(endpoint, endpoint.model), api_key, endpoint.timeout) from None
