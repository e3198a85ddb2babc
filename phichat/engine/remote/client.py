"""What can be asked of a server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from phichat.cancel import CancelToken
from phichat.config.endpoints import Endpoint
from phichat.engine.remote.request_thread import RequestThread, stream_documents
from phichat.engine.remote.sse import JsonObject
from phichat.errors import ExtraNotInstalled

if TYPE_CHECKING:
    from phichat.engine.remote.http_transport import HttpTransport


class EndpointClient:
    """The server of an endpoint; nothing is sent before something is asked.

    key: what proves who asks, "" for nothing. All that asks raises Trouble and ExtraNotInstalled.
    """

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        self._endpoint, self._api_key = endpoint, api_key
        self._transport: HttpTransport | None = None

    def stream_completion(
        self, body: Mapping[str, Any], cancel: CancelToken, get_idle_timeout: Callable[[], float]
    ) -> Generator[JsonObject, None, None]:
        """The documents of a chat completion as they come; ends early when cancelled.

        silence_s: how long the server may say nothing now.
        """
        return self._stream_documents(
            lambda http, thread: http.stream_completion(body, thread), cancel, get_idle_timeout
        )

    def get_models(self, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        """What /v1/models says; None when cancelled."""
        version = self._endpoint.api_version
        query = "?" + urlencode({"api-version": version}) if version else ""
        return self._get_json(f"{self._endpoint.base_url}/models{query}", cancel, idle_timeout_s)

    def get_outside_api(self, path: str, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        """What the server says at a path of its own; None when cancelled."""
        return self._get_json(self._endpoint.base_url.removesuffix("/v1") + path, cancel, idle_timeout_s)

    def close(self) -> None:
        """Let go of everything."""
        if self._transport is not None:
            self._transport.close()

    def _get_json(self, url: str, cancel: CancelToken, idle_timeout_s: float) -> JsonObject | None:
        return next(
            self._stream_documents(lambda http, thread: http.get_json(url, thread), cancel, lambda: idle_timeout_s),
            None,
        )

    def _stream_documents(
        self,
        send_request: Callable[[HttpTransport, RequestThread], None],
        cancel: CancelToken,
        get_idle_timeout: Callable[[], float],
    ) -> Generator[JsonObject, None, None]:
        def run_request(thread: RequestThread) -> None:
            # In the thread, because importing the libraries takes longer than a cancel may.
            transport = self._get_transport()
            thread.mark_sent()
            if not thread.is_abandoned:
                send_request(transport, thread)

        return stream_documents(run_request, cancel, get_idle_timeout)

    def _get_transport(self) -> HttpTransport:
        if self._transport is None:
            try:
                from phichat.engine.remote.http_transport import HttpTransport
            except ModuleNotFoundError as error:
                raise ExtraNotInstalled(
                    "Endpoints need the package openai, which is not installed",
                    "Install it with `pip install 'phichat-cli[remote]'`",
                    detail=str(error),
                ) from None
            self._transport = HttpTransport(self._endpoint, self._api_key)
        return self._transport
