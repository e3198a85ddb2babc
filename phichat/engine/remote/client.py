"""HTTP client of an endpoint, for callers that must be able to leave at once."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint
from phichat.engine.remote.request_thread import GetTimeout, RequestThread
from phichat.engine.remote.sse import JsonObject

if TYPE_CHECKING:
    from phichat.engine.remote.http_transport import HttpTransport


class EndpointClient:
    """Client of one endpoint. Opens no connection before a request; every request raises RemoteError.

    api_key: "" for none.
    """

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        self._endpoint, self._api_key = endpoint, api_key
        self._transport: HttpTransport | None = None

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
        return self._send("POST", self._with_version(f"{base_url}/chat/completions"), body, cancel, get_idle_timeout)

    def get_models(self, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        """Return the document of `/v1/models`; None when cancelled."""
        return self._get(self._with_version(f"{self._endpoint.base_url}/models"), cancel, idle_timeout_s)

    def get_server_path(self, path: str, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        """Return the JSON document at a path of the server, outside `/v1`; None when cancelled."""
        return self._get(self._endpoint.base_url.removesuffix("/v1") + path, cancel, idle_timeout_s)

    def close(self) -> None:
        """Close the connections; the client can be used again."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _with_version(self, url: str) -> str:
        version = self._endpoint.api_version
        return f"{url}?{urlencode({'api-version': version})}" if version else url

    def _get(self, url: str, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        return next(self._send("GET", url, None, cancel, lambda: idle_timeout_s), None)

    def _send(
        self, method: str, url: str, body: JsonObject | None, cancel: CancelToken, get_idle_timeout: GetTimeout
    ) -> Generator[JsonObject, None, None]:
        def run_request(thread: RequestThread) -> None:
            # Imported in the thread: importing httpx2 and reading certificates takes longer than a cancel may.
            from phichat.engine.remote.http_transport import HttpTransport

            transport = self._transport = self._transport or HttpTransport(self._endpoint, self._api_key)
            thread.mark_sent()
            if not thread.is_abandoned:
                transport.send(method, url, body, thread)

        return RequestThread(run_request).stream(cancel, get_idle_timeout)
