"""One exchange with a server at a time, in a thread of its own, so that whoever waits can leave at once."""

from __future__ import annotations

import contextlib
import email.utils
import socket
import ssl
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from datetime import UTC, datetime
from multiprocessing.connection import wait
from threading import Semaphore, Thread, current_thread
from time import monotonic
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx2
import openai

from phichat import __version__
from phichat.endpoints import Endpoint
from phichat.engine.cancel import Cancel
from phichat.engine.remote.stream import MOST, Document, Events, Whole, document
from phichat.engine.remote.trouble import Kind, Trouble

_CONNECT_S = 10.0
_OF_HTTP = frozenset(
    ("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding")
)
_ERROR_BYTES = 1 << 18
"""As much of an error page is read."""

_AHEAD = 256
"""Documents that wait for who asked; a server that is faster is read no further."""

_ONLY_ALIVE = 10
"""A server that only says that it is alive, and nothing else, is waited for this many times as long."""

_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
"""Asked directly, whatever proxy the environment names."""


class Server:
    """The server of an endpoint.

    key: what proves who asks, "" for nothing. It goes into headers and nowhere else. Raises Trouble when the
    address, or what the environment says of proxies and certificates, cannot be used.
    """

    def __init__(self, endpoint: Endpoint, key: str) -> None:
        self._base_url, self._api_version = endpoint.base_url, endpoint.api_version
        own = {"user-agent": f"phichat/{__version__}", "accept-encoding": "identity"}
        self._headers = {**own, **_credentials(endpoint, key), **endpoint.headers}
        try:
            self._http = httpx2.Client(
                timeout=httpx2.Timeout(endpoint.timeout, connect=min(_CONNECT_S, endpoint.timeout)),
                limits=httpx2.Limits(max_keepalive_connections=0),
                follow_redirects=False,
                event_hooks={"request": [self._prepare], "response": [_bound]},
                mounts=dict.fromkeys(f"all://{host}" for host in _OF_THIS_MACHINE),
            )
            self._client = _client(endpoint, self._http)
        except (httpx2.InvalidURL, ImportError, OSError, ValueError) as why:
            # An address, a proxy or a file of certificates in the environment that the library cannot use.
            raise Trouble(Kind.UNREACHABLE, detail=str(why)) from None

    def close(self) -> None:
        """Let go of everything; nothing can be asked any more."""
        self._http.close()

    def complete(
        self, body: Mapping[str, Any], cancel: Cancel, silence_s: Callable[[], float]
    ) -> Generator[Document, None, None]:
        """The documents of a chat completion as they come; ends early when cancelled.

        silence_s: how long the server may say nothing now. Raises Trouble.
        """

        def work(exchange: _Exchange) -> None:
            # The library's own reading of the stream knows no bounds, and parses every event into a model.
            with self._client.chat.completions.create(**body) as stream:
                exchange.has_answer, answer = True, stream.response
                kind = answer.headers.get("content-type", "").lower()
                if "html" in kind:
                    raise Trouble(Kind.WEB_PAGE)
                decoder = Whole() if "application/json" in kind else Events()
                for piece in answer.iter_bytes():
                    before = decoder.lines
                    exchange.put_each(decoder.feed(piece), is_alive=lambda: decoder.lines > before)  # noqa: B023
                    if decoder.is_done or exchange.is_left:
                        return
                exchange.put_each(decoder.close(), is_alive=lambda: False)
                if not decoder.is_done:
                    raise Trouble(Kind.BAD_STREAM if decoder.lines and not decoder.documents else Kind.CUT)

        return self._exchange(work, cancel, silence_s)

    def models(self, cancel: Cancel, silence_s: float) -> Document | None:
        """What /v1/models says; None when cancelled. Raises Trouble."""
        query = "?" + urlencode({"api-version": self._api_version}) if self._api_version else ""
        return self._get(f"{self._base_url}/models{query}", cancel, silence_s)

    def beside_api(self, path: str, cancel: Cancel, silence_s: float) -> Document | None:
        """What the server says at a path of its own; None when cancelled. Raises Trouble."""
        return self._get(self._base_url.removesuffix("/v1") + path, cancel, silence_s)

    def _get(self, url: str, cancel: Cancel, silence_s: float) -> Document | None:
        def work(exchange: _Exchange) -> None:
            with self._http.stream("GET", url) as answer:
                content = bytearray()
                for piece in answer.iter_bytes():
                    content += piece
                    if len(content) > MOST:
                        raise Trouble(Kind.HUGE)
                is_page = "html" in answer.headers.get("content-type", "").lower()
                if answer.status_code != 200:
                    body = None if is_page else _parsed(bytes(content))
                    raise Trouble(Kind.STATUS, answer.status_code, body, _retry_after(answer.headers))
                if is_page:
                    raise Trouble(Kind.WEB_PAGE)
                exchange.put_each(iter((document(bytes(content)),)), is_alive=lambda: True)

        return next(self._exchange(work, cancel, lambda: silence_s), None)

    def _exchange(
        self, work: Callable[[_Exchange], None], cancel: Cancel, silence_s: Callable[[], float]
    ) -> Generator[Document, None, None]:
        exchange = _Exchange(work)
        exchange.start()
        try:
            yield from exchange.documents(cancel, silence_s)
        finally:
            exchange.leave()

    def _prepare(self, request: httpx2.Request) -> None:
        """Only the headers that are meant: the library adds some about this machine, and takes more from
        variables (OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS) that were set for another server."""
        for name in set(request.headers) - _OF_HTTP:
            del request.headers[name]
        request.headers.update(self._headers)
        exchange = current_thread()
        assert isinstance(exchange, _Exchange)
        request.extensions = {**request.extensions, "trace": exchange.saw}


class _Exchange(Thread):
    """A request, and its answer as it comes.

    Left by its user it closes its connection, in whatever state that is. has_answer: one has begun to come.
    """

    def __init__(self, work: Callable[[_Exchange], None]) -> None:
        super().__init__(name="phichat-endpoint", daemon=True)
        self._work = work
        self._items: deque[Document | Exception | None] = deque()
        self._room = Semaphore(_AHEAD)
        self._news, self._tell = socket.socketpair()
        self._tell.settimeout(0)
        self._line: socket.socket | None = None
        self.has_answer = self.is_left = False

    def run(self) -> None:
        """In the thread."""
        try:
            self._work(self)
        except Exception as why:  # noqa: BLE001  (raised where it is waited for)
            trouble = _trouble_of(why)
            if trouble is not None and self.has_answer and trouble.kind is Kind.LOST:
                trouble.kind = Kind.CUT
            self._items.append(trouble or why)
        finally:
            self._items.append(None)
            self._wake()

    def saw(self, name: str, info: Mapping[str, Any]) -> None:
        """The transport tells of the connection, which may come too late."""
        if name.endswith("connect_tcp.complete"):
            # A handle of our own: TLS takes the other away, and nobody may close it under whoever reads.
            self._line = info["return_value"].get_extra_info("socket").dup()
            if self.is_left:
                self._hang_up()

    def put_each(self, documents: Iterator[Document], is_alive: Callable[[], bool]) -> None:
        """Hand them over; is_alive: whether to tell of life even when there are none. Raises what they raise."""
        has_come = False
        try:
            for document in documents:
                if not self._room.acquire(blocking=False):
                    self._wake()
                    self._room.acquire()
                if self.is_left:
                    return
                self._items.append(document)
                has_come = True
        finally:
            if has_come or is_alive():
                self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake then
            self._tell.send(b"\0")

    def documents(self, cancel: Cancel, silence_s: Callable[[], float]) -> Iterator[Document]:
        """For its user. Raises Trouble."""
        last_at = monotonic()
        while True:
            arrived = wait([cancel, self._news], silence_s())  # type: ignore[list-item]
            if cancel.is_set():
                return
            if not arrived or (not self._items and monotonic() - last_at > _ONLY_ALIVE * silence_s()):
                raise Trouble(Kind.SILENT)
            self._news.recv(4096)
            while self._items and not cancel.is_set():
                item = self._items.popleft()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                self._room.release()
                yield item
                last_at = monotonic()

    def leave(self) -> None:
        """Nobody listens any more."""
        self.is_left = True
        self._room.release()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._line.shutdown(socket.SHUT_RDWR)
            self._line.close()


def _client(endpoint: Endpoint, http: httpx2.Client) -> openai.OpenAI:
    # Our own hook sets what proves who asks; the library only has to be content.
    common: dict[str, Any] = {"admin_api_key": "", "max_retries": 0, "http_client": http, "timeout": http.timeout}
    if endpoint.api_version and not urlsplit(endpoint.base_url).path:
        return openai.AzureOpenAI(
            azure_endpoint=endpoint.base_url, api_version=endpoint.api_version, api_key="-", **common
        )
    query = {"api-version": endpoint.api_version} if endpoint.api_version else None
    return openai.OpenAI(base_url=endpoint.base_url, default_query=query, api_key="-", **common)


def _credentials(endpoint: Endpoint, key: str) -> Mapping[str, str]:
    if not key:
        return {}
    return {"api-key": key} if endpoint.api_version else {"authorization": f"Bearer {key}"}


def _parsed(content: bytes) -> object:
    try:
        return document(content)
    except Trouble:
        return content.decode("utf-8", "replace")


class _AtMost(httpx2.SyncByteStream):
    """The beginning of a body: the libraries read the page of an error whole, and a server can make it endless."""

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for piece in self._body:
            yield piece
            size += len(piece)
            if size > _ERROR_BYTES:
                return

    def close(self) -> None:
        self._body.close()


def _bound(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise Trouble(Kind.BAD_STREAM, detail="it is compressed, which was not asked for")  # and may have no bounds
    if response.status_code >= 300 and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _AtMost(response.stream)


def _trouble_of(why: Exception) -> Trouble | None:
    """What an exception of the libraries means; None for what is none of theirs."""
    match why:
        case Trouble():
            return why
        case openai.APIStatusError():
            is_page = "html" in why.response.headers.get("content-type", "").lower()
            return Trouble(
                Kind.STATUS, why.status_code, None if is_page else why.body, _retry_after(why.response.headers)
            )
        case openai.OpenAIError() | httpx2.HTTPError() | httpx2.StreamError() | OSError() | ValueError():
            return _of_connection(why)
        case _:
            return None


def _of_connection(why: Exception) -> Trouble:
    causes = [why]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        if not isinstance(cause, Exception):
            break
        causes.append(cause)
    if isinstance(causes[-1], Trouble):
        return causes[-1]
    deepest = str(causes[-1])

    def among(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if among(ssl.SSLError) and among(httpx2.ConnectError):
        return Trouble(Kind.TLS, detail=deepest)
    if among(ConnectionRefusedError):
        return Trouble(Kind.REFUSED)
    if among(ConnectionResetError, BrokenPipeError, httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
        return Trouble(Kind.LOST)
    if among(httpx2.ConnectTimeout):
        return Trouble(Kind.UNREACHABLE, detail="it does not answer")
    if among(httpx2.TimeoutException):
        return Trouble(Kind.SILENT)
    if among(httpx2.DecodingError):
        return Trouble(Kind.BAD_STREAM, detail=deepest)
    return Trouble(Kind.UNREACHABLE, detail=deepest)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from Retry-After or from its variant in milliseconds (RFC 9110, 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        with contextlib.suppress(ValueError):
            seconds = float(value) * unit
            return seconds if 0 <= seconds < 1e9 else None
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None
