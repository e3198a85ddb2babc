"""What can be asked of a server."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from phichat.endpoints import Endpoint
from phichat.engine.cancel import Cancel
from phichat.engine.remote.exchange import Exchange, exchange
from phichat.engine.remote.stream import Document
from phichat.errors import ExtraNotInstalled

if TYPE_CHECKING:
    from phichat.engine.remote.http import Http


class Server:
    """The server of an endpoint; nothing is sent before something is asked.

    key: what proves who asks, "" for nothing. All that asks raises Trouble and ExtraNotInstalled.
    """

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._endpoint, self._key = endpoint, key
        self._http: Http | None = None

    def complete(
        self, body: Mapping[str, Any], cancel: Cancel, silence_s: Callable[[], float]
    ) -> Generator[Document, None, None]:
        """The documents of a chat completion as they come; ends early when cancelled.

        silence_s: how long the server may say nothing now.
        """
        return self._exchange(lambda http, begun: http.complete(body, begun), cancel, silence_s)

    def models(self, cancel: Cancel, silence_s: float) -> Document | None:
        """What /v1/models says; None when cancelled."""
        version = self._endpoint.api_version
        query = "?" + urlencode({"api-version": version}) if version else ""
        return self._get(f"{self._endpoint.base_url}/models{query}", cancel, silence_s)

    def beside_api(self, path: str, cancel: Cancel, silence_s: float) -> Document | None:
        """What the server says at a path of its own; None when cancelled."""
        return self._get(self._endpoint.base_url.removesuffix("/v1") + path, cancel, silence_s)

    def close(self) -> None:
        """Let go of everything."""
        if self._http is not None:
            self._http.close()

    def _get(self, url: str, cancel: Cancel, silence_s: float) -> Document | None:
        return next(self._exchange(lambda http, begun: http.get(url, begun), cancel, lambda: silence_s), None)

    def _exchange(
        self, ask: Callable[[Http, Exchange], None], cancel: Cancel, silence_s: Callable[[], float]
    ) -> Generator[Document, None, None]:
        def work(begun: Exchange) -> None:
            # In the thread, because importing the libraries takes longer than a cancel may.
            http = self._opened()
            begun.asks()
            if not begun.is_left:
                ask(http, begun)

        return exchange(work, cancel, silence_s)

    def _opened(self) -> Http:
        if self._http is None:
            try:
                from phichat.engine.remote.http import Http
            except ModuleNotFoundError as why:
                raise ExtraNotInstalled(
                    "Endpoints need the package openai, which is not installed",
                    "install it with `pip install 'phichat-cli[remote]'`",
                    detail=str(why),
                ) from None
            self._http = Http(self._endpoint, self._key)
        return self._http
