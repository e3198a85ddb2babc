"""HTTP exchange with an endpoint: the only module here that imports httpx2, and only request threads import it."""

from __future__ import annotations

import contextlib
import email.utils
import json
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from phichat import __version__
from phichat.config.endpoints import Endpoint
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind
from phichat.engine.remote.request_thread import RequestThread
from phichat.engine.remote.sse import MAX_EVENT_BYTES, JsonObject, SseDecoder, parse_document

_LOST_ERRORS = (ConnectionResetError, BrokenPipeError, httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError)


def create_client(endpoint: Endpoint, api_key: str) -> httpx2.Client:
    """Return a client that opens one connection per request.

    Raises RemoteError when base_url, or the proxies and certificates of the environment, cannot be used.
    """
    headers = {"user-agent": f"phichat/{__version__}", "accept": "application/json", "accept-encoding": "identity"}
    if api_key:
        headers |= {"api-key": api_key} if endpoint.api_version else {"authorization": f"Bearer {api_key}"}
    try:
        return httpx2.Client(
            headers=headers | {name.lower(): value for name, value in endpoint.headers.items()},
            params={"api-version": endpoint.api_version} if endpoint.api_version else None,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx2.Timeout(endpoint.timeout, connect=min(10.0, endpoint.timeout)),
            limits=httpx2.Limits(max_keepalive_connections=0),
            follow_redirects=False,
            # This machine is asked directly, whatever proxy the environment names.
            mounts=dict.fromkeys(("all://localhost", "all://127.0.0.1", "all://[::1]")),
        )
    except (httpx2.InvalidURL, ImportError, OSError, ValueError) as error:
        raise RemoteError(RemoteErrorKind.UNREACHABLE, detail=str(error)) from None


def send(client: httpx2.Client, method: str, url: str, body: JsonObject | None, thread: RequestThread) -> None:
    """Send a request and hand the JSON documents of its response to the thread's user. Raises RemoteError."""
    content = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
    headers = {} if body is None else {"content-type": "application/json"}
    trace, response = {"trace": thread.on_trace}, None
    try:
        with client.stream(method, url, content=content, headers=headers, extensions=trace) as response:
            _check_response(response)
            _receive_documents(response, thread)
    except (httpx2.HTTPError, httpx2.StreamError, httpx2.InvalidURL, OSError, ValueError) as exc:
        error = _classify(exc)
        if response is not None and error.kind is RemoteErrorKind.CONNECTION_LOST:
            error.kind = RemoteErrorKind.TRUNCATED
        raise error from None


def _check_response(response: httpx2.Response) -> None:
    headers = response.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        # What it expands to has no bound.
        raise RemoteError(RemoteErrorKind.BAD_STREAM, detail="it is compressed, which was not asked for")
    is_html = "html" in headers.get("content-type", "").lower()
    if not response.is_success:
        content = b"" if is_html else _read_body(response, 1 << 18)  # a server can make it endless
        body: object = content.decode("utf-8", "replace") or None
        with contextlib.suppress(RemoteError):
            body = parse_document(content)
        raise RemoteError(RemoteErrorKind.HTTP_STATUS, response.status_code, body, _parse_retry_after(headers))
    if is_html:
        raise RemoteError(RemoteErrorKind.WEB_PAGE)


def _read_body(response: httpx2.Response, max_bytes: int) -> bytes:
    """Return the body, or somewhat more than max_bytes of a larger one."""
    content = bytearray()
    for chunk in response.iter_bytes():
        content += chunk
        if len(content) > max_bytes:
            break
    return bytes(content)


def _receive_documents(response: httpx2.Response, thread: RequestThread) -> None:
    if "application/json" in response.headers.get("content-type", "").lower():  # a server that does not stream
        content = _read_body(response, MAX_EVENT_BYTES)
        if len(content) > MAX_EVENT_BYTES:
            raise RemoteError(RemoteErrorKind.TOO_LARGE)
        return thread.enqueue(iter((parse_document(content),)))
    decoder = SseDecoder()
    for chunk in response.iter_bytes():
        counts = decoder.line_count, decoder.document_count
        thread.enqueue(decoder.feed(chunk))
        if (decoder.line_count, decoder.document_count) != counts:  # comments are signs of life too
            thread.wake_user()
        if decoder.is_done or thread.is_abandoned:
            return
    thread.enqueue(decoder.flush())
    if not decoder.is_done:
        is_other_text = decoder.line_count and not decoder.document_count
        raise RemoteError(RemoteErrorKind.BAD_STREAM if is_other_text else RemoteErrorKind.TRUNCATED)


def _classify(exc: Exception) -> RemoteError:
    causes: list[BaseException] = [exc]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        causes.append(cause)

    def has_cause(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    detail = str(causes[-1])
    if has_cause(ssl.SSLError) and has_cause(httpx2.ConnectError):
        return RemoteError(RemoteErrorKind.TLS_ERROR, detail=detail)
    if has_cause(ConnectionRefusedError):
        return RemoteError(RemoteErrorKind.CONNECTION_REFUSED)
    if has_cause(*_LOST_ERRORS):
        return RemoteError(RemoteErrorKind.CONNECTION_LOST)
    if has_cause(httpx2.ConnectTimeout):
        return RemoteError(RemoteErrorKind.UNREACHABLE, detail="it does not answer")
    if has_cause(httpx2.TimeoutException):
        return RemoteError(RemoteErrorKind.TIMEOUT)
    kind = RemoteErrorKind.BAD_STREAM if has_cause(httpx2.DecodingError) else RemoteErrorKind.UNREACHABLE
    return RemoteError(kind, detail=detail)


def _parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return seconds, from Retry-After or from its variant in milliseconds (RFC 9110, 10.2.3)."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "")
        with contextlib.suppress(ValueError):
            seconds = float(value) * unit
            return seconds if 0 <= seconds < 1e9 else None
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(0.0, (email.utils.parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    return None
