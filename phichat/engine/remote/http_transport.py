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
from phichat.config.endpoints import Endpoint
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind
from phichat.engine.remote.request_thread import RequestThread
from phichat.engine.remote.sse import MAX_EVENT_BYTES, JsonDecoder, SseDecoder, parse_document

_CONNECT_TIMEOUT_S = 10.0
_TRANSPORT_HEADERS = frozenset(
    ("host", "accept", "accept-encoding", "connection", "content-length", "content-type", "transfer-encoding")
)
_MAX_ERROR_BYTES = 1 << 18
"""As much of an error page is read."""

_LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Asked directly, whatever proxy the environment names."""


class HttpTransport:
    """The libraries, set up for an endpoint.

    key: what proves who asks, "" for nothing. It goes into headers and nowhere else. Raises Trouble when the
    address, or what the environment says of proxies and certificates, cannot be used.
    """

    def __init__(self, endpoint: Endpoint, api_key: str) -> None:
        default_headers = {"user-agent": f"phichat/{__version__}", "accept-encoding": "identity"}
        self._headers = {**default_headers, **_build_auth_headers(endpoint, api_key), **endpoint.headers}
        try:
            self._http_client = httpx2.Client(
                timeout=httpx2.Timeout(endpoint.timeout, connect=min(_CONNECT_TIMEOUT_S, endpoint.timeout)),
                limits=httpx2.Limits(max_keepalive_connections=0),
                follow_redirects=False,
                event_hooks={"request": [self._set_request_headers], "response": [_limit_response]},
                mounts=dict.fromkeys(f"all://{host}" for host in _LOCAL_HOSTS),
            )
            self._openai_client = _build_openai_client(endpoint, self._http_client)
        except (httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
            # An address, a proxy or a file of certificates in the environment that the library cannot use.
            raise RemoteError(RemoteErrorKind.UNREACHABLE, detail=str(error)) from None

    def close(self) -> None:
        """Let go of everything."""
        self._http_client.close()

    def stream_completion(self, body: Mapping[str, Any], request_thread: RequestThread) -> None:
        """The documents of a chat completion as they come. Raises Trouble."""
        # The library's own reading of the stream knows no bounds, and parses every event into a model.
        with _translate_errors(request_thread), self._openai_client.chat.completions.create(**body) as stream:
            request_thread.has_response, response = True, stream.response
            content_type = response.headers.get("content-type", "").lower()
            if "html" in content_type:
                raise RemoteError(RemoteErrorKind.WEB_PAGE)
            decoder = JsonDecoder() if "application/json" in content_type else SseDecoder()
            for chunk in response.iter_bytes():
                line_count = decoder.line_count
                request_thread.enqueue_all(decoder.feed(chunk), is_active=lambda: decoder.line_count > line_count)  # noqa: B023
                if decoder.is_done or request_thread.is_abandoned:
                    return
            request_thread.enqueue_all(decoder.flush(), is_active=lambda: False)
            if not decoder.is_done:
                raise RemoteError(
                    RemoteErrorKind.BAD_STREAM
                    if decoder.line_count and not decoder.document_count
                    else RemoteErrorKind.TRUNCATED
                )

    def get_json(self, url: str, request_thread: RequestThread) -> None:
        """The JSON document there. Raises Trouble."""
        with _translate_errors(request_thread), self._http_client.stream("GET", url) as response:
            content = bytearray()
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > MAX_EVENT_BYTES:
                    raise RemoteError(RemoteErrorKind.TOO_LARGE)
            is_html = "html" in response.headers.get("content-type", "").lower()
            if response.status_code != 200:
                body = None if is_html else _parse_error_body(bytes(content))
                raise RemoteError(
                    RemoteErrorKind.HTTP_STATUS, response.status_code, body, _parse_retry_after(response.headers)
                )
            if is_html:
                raise RemoteError(RemoteErrorKind.WEB_PAGE)
            request_thread.enqueue_all(iter((parse_document(bytes(content)),)), is_active=lambda: True)

    def _set_request_headers(self, request: httpx2.Request) -> None:
        """Only the headers that are meant: the library adds some about this machine, and takes more from
        variables (OPENAI_ORG_ID, OPENAI_CUSTOM_HEADERS) that were set for another server."""
        for name in set(request.headers) - _TRANSPORT_HEADERS:
            del request.headers[name]
        request.headers.update(self._headers)
        request_thread = current_thread()
        assert isinstance(request_thread, RequestThread)
        request.extensions = {**request.extensions, "trace": request_thread.on_trace}


def _build_openai_client(endpoint: Endpoint, http_client: httpx2.Client) -> openai.OpenAI:
    # Our own hook sets what proves who asks; the library only has to be content.
    client_options: dict[str, Any] = {
        "admin_api_key": "",
        "max_retries": 0,
        "http_client": http_client,
        "timeout": http_client.timeout,
    }
    if endpoint.api_version and not urlsplit(endpoint.base_url).path:
        return openai.AzureOpenAI(
            azure_endpoint=endpoint.base_url, api_version=endpoint.api_version, api_key="-", **client_options
        )
    query = {"api-version": endpoint.api_version} if endpoint.api_version else None
    return openai.OpenAI(base_url=endpoint.base_url, default_query=query, api_key="-", **client_options)


def _build_auth_headers(endpoint: Endpoint, api_key: str) -> Mapping[str, str]:
    if not api_key:
        return {}
    return {"api-key": api_key} if endpoint.api_version else {"authorization": f"Bearer {api_key}"}


def _parse_error_body(content: bytes) -> object:
    try:
        return parse_document(content)
    except RemoteError:
        return content.decode("utf-8", "replace")


class _BoundedStream(httpx2.SyncByteStream):
    """The beginning of a body: the libraries read the page of an error whole, and a server can make it endless."""

    def __init__(self, body: httpx2.SyncByteStream) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._body:
            yield chunk
            size += len(chunk)
            if size > _MAX_ERROR_BYTES:
                return

    def close(self) -> None:
        self._body.close()


def _limit_response(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise RemoteError(
            RemoteErrorKind.BAD_STREAM, detail="it is compressed, which was not asked for"
        )  # and may have no bounds
    if response.status_code >= 300 and isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _BoundedStream(response.stream)


@contextlib.contextmanager
def _translate_errors(request_thread: RequestThread) -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        error = _classify(exc)
        if error is None:
            raise
        if request_thread.has_response and error.kind is RemoteErrorKind.CONNECTION_LOST:
            error.kind = RemoteErrorKind.TRUNCATED
        raise error from None


def _classify(exc: Exception) -> RemoteError | None:
    """What an exception of the libraries means; None for what is none of theirs."""
    match exc:
        case RemoteError():
            return exc
        case openai.APIStatusError():
            is_html = "html" in exc.response.headers.get("content-type", "").lower()
            return RemoteError(
                RemoteErrorKind.HTTP_STATUS,
                exc.status_code,
                None if is_html else exc.body,
                _parse_retry_after(exc.response.headers),
            )
        case openai.OpenAIError() | httpx2.HTTPError() | httpx2.StreamError() | OSError() | ValueError():
            return _classify_connect_error(exc)
        case _:
            return None


def _classify_connect_error(exc: Exception) -> RemoteError:
    causes = [exc]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        if not isinstance(cause, Exception):
            break
        causes.append(cause)
    if isinstance(causes[-1], RemoteError):
        return causes[-1]
    root_message = str(causes[-1])

    def has_cause(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if has_cause(ssl.SSLError) and has_cause(httpx2.ConnectError):
        return RemoteError(RemoteErrorKind.TLS_ERROR, detail=root_message)
    if has_cause(ConnectionRefusedError):
        return RemoteError(RemoteErrorKind.CONNECTION_REFUSED)
    if has_cause(
        ConnectionResetError, BrokenPipeError, httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError
    ):
        return RemoteError(RemoteErrorKind.CONNECTION_LOST)
    if has_cause(httpx2.ConnectTimeout):
        return RemoteError(RemoteErrorKind.UNREACHABLE, detail="it does not answer")
    if has_cause(httpx2.TimeoutException):
        return RemoteError(RemoteErrorKind.TIMEOUT)
    if has_cause(httpx2.DecodingError):
        return RemoteError(RemoteErrorKind.BAD_STREAM, detail=root_message)
    return RemoteError(RemoteErrorKind.UNREACHABLE, detail=root_message)


def _parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, from Retry-After or from its variant in milliseconds (RFC 9110, 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        with contextlib.suppress(ValueError):
            seconds = float(value) * unit
            return seconds if 0 <= seconds < 1e9 else None
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None
