"""A server by HTTP: the only user of openai and of the library below it, both imported when something is asked."""

from __future__ import annotations

import contextlib
import email.utils
import ssl
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from threading import current_thread
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai

from phichat import __version__
from phichat.endpoints import Endpoint
from phichat.engine.remote.exchange import Exchange
from phichat.engine.remote.stream import MOST, Events, Whole, document
from phichat.engine.remote.trouble import Kind, Trouble

_CONNECT_S = 10.0
_OF_HTTP = frozenset(
    ("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding")
)
_ERROR_BYTES = 1 << 18
"""As much of an error page is read."""

_OF_THIS_MACHINE = ("localhost", "127.0.0.1", "[::1]")
"""Asked directly, whatever proxy the environment names."""


class Http:
    """The libraries, set up for an endpoint.

    key: what proves who asks, "" for nothing. It goes into headers and nowhere else. Raises Trouble when the
    address, or what the environment says of proxies and certificates, cannot be used.
    """

    def __init__(self, endpoint: Endpoint, key: str) -> None:
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
        """Let go of everything."""
        self._http.close()

    def complete(self, body: Mapping[str, Any], exchange: Exchange) -> None:
        """The documents of a chat completion as they come. Raises Trouble."""
        # The library's own reading of the stream knows no bounds, and parses every event into a model.
        with _as_trouble(exchange), self._client.chat.completions.create(**body) as stream:
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

    def get(self, url: str, exchange: Exchange) -> None:
        """The JSON document there. Raises Trouble."""
        with _as_trouble(exchange), self._http.stream("GET", url) as answer:
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

    def _prepare(self, request: httpx2.Request) -> None:
        """Only the headers that are meant: the library adds some about this machine, and takes more from
        variables (OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS) that were set for another server."""
        for name in set(request.headers) - _OF_HTTP:
            del request.headers[name]
        request.headers.update(self._headers)
        exchange = current_thread()
        assert isinstance(exchange, Exchange)
        request.extensions = {**request.extensions, "trace": exchange.saw}


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


@contextlib.contextmanager
def _as_trouble(exchange: Exchange) -> Iterator[None]:
    try:
        yield
    except Exception as why:
        trouble = _trouble_of(why)
        if trouble is None:
            raise
        if exchange.has_answer and trouble.kind is Kind.LOST:
            trouble.kind = Kind.CUT
        raise trouble from None


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
