"""Reads of byte ranges of one remote file. They raise TransferInterrupted where another attempt may succeed."""

import re
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import ip_address
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx2

from phichat.errors import AccessDenied, DownloadError, HubUnreachable, PhichatError

TRY_AGAIN = "Try again later: the download resumes where it stopped"
RETRYABLE_STATUSES = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)

_MAX_REDIRECTS = 8
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_MAX_ATTEMPTS = 4
_MAX_RETRY_WAIT_S = 30.0
_Result = TypeVar("_Result")


class TransferInterrupted(Exception):
    """A transfer ended early and may be resumed.

    reason: a clause for the user. wait_s: seconds that the server asked to wait. ignores_ranges: the server sent the
    file from its beginning instead of the range.
    """

    def __init__(self, reason: str, *, wait_s: float = 0.0, ignores_ranges: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.wait_s, self.ignores_ranges = reason, wait_s, ignores_ranges


@dataclass(slots=True)
class RemoteFile:
    """Remote file of `size` bytes.

    url: where every attempt begins; the URL that it redirects to may expire. headers: sent only to the server of url.
    validator: a strong ETag from a plain server, to notice a changed file. make_access_error: returns the error for a
    user without access. supports_ranges: None until the server showed it.
    """

    client: httpx2.Client
    url: str
    name: str
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)
    validator: str = ""
    make_access_error: Callable[[Mapping[str, str]], PhichatError] | None = None
    timeout_s: float = 10.0
    supports_ranges: bool | None = None
    _resolved_url: str = ""

    def fetch_metadata(self) -> None:
        """Ask the server for size and validator, several times if need be. Raises PhichatError."""
        headers = self._retry(self._fetch_headers)
        total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        if not total.isdecimal() or total == "0":
            raise DownloadError(f"The server does not say how large {self.name} is", "Download it another way")
        self.size = int(total)
        etag = headers.get("ETag", "")
        self.validator = "" if etag.startswith("W/") else etag

    def read_range(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, asked for several times if need be. Raises PhichatError."""
        return self._retry(partial(self._read_once, offset, length))

    def _retry(self, fetch: Callable[[], _Result]) -> _Result:
        for attempt in range(_MAX_ATTEMPTS):
            try:
                return fetch()
            except TransferInterrupted as error:
                reason, wait_s = error.reason, max(0.5 * 2**attempt, min(error.wait_s, _MAX_RETRY_WAIT_S))
            if attempt < _MAX_ATTEMPTS - 1:
                time.sleep(wait_s)
        raise DownloadError(f"{self.name} cannot be read: {reason}", "Check the address and the connection")

    def _fetch_headers(self) -> Mapping[str, str]:
        with self._translate_errors(), closing(self._send_request(0, 1)) as response:
            self._check_response(response, 0)
            return response.headers

    def _read_once(self, offset: int, length: int) -> bytes:
        content = bytearray()
        for position, chunk in self.iter_range(offset, offset + length):
            content += chunk[max(0, offset - position) :]
            if len(content) >= length:
                return bytes(content[:length])
        raise TransferInterrupted("it ends early")

    def iter_range(self, start: int, stop: int) -> Generator[tuple[int, bytes], None, None]:
        """Yield (offset, bytes) from start to stop, or the whole file from a server that does not know ranges.

        Ends early if the server does. Raises TransferInterrupted, and PhichatError for a final failure.
        """
        with self._translate_errors(), closing(self._send_request(start, stop)) as response:
            _limit_receive_buffer(response)
            offset = self._check_response(response, start)
            end = stop if offset == start and self.supports_ranges else self.size
            for chunk in response.iter_raw():
                yield offset, chunk[: end - offset]
                offset += len(chunk)
                if offset >= end:
                    break

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise this module's errors for those of the HTTP library."""
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            yield
        except httpx2.TimeoutException:
            raise TransferInterrupted("the server stopped sending") from None
        except httpx2.ConnectError:
            raise TransferInterrupted("the connection failed") from None
        except (httpx2.TransportError, httpx2.StreamError):
            raise TransferInterrupted("the connection broke") from None
        except (httpx2.InvalidURL, ValueError):
            # ValueError: from urllib, for instance for the port in a redirect.
            raise DownloadError(f"The address of {self.name} is not a valid URL", "Check the address") from None
        except OfflineModeIsEnabled:
            raise offline_error() from None

    def _send_request(self, start: int, stop: int) -> httpx2.Response:
        url = self._resolved_url or self.url
        range_headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if self.validator and start:
            range_headers["If-Range"] = self.validator
        for _ in range(_MAX_REDIRECTS):
            headers = {**(self.headers if _origin(url) == _origin(self.url) else {}), **range_headers}
            request = self.client.build_request("GET", url, headers=headers, timeout=self.timeout_s)
            response = self.client.send(request, stream=True, follow_redirects=False)
            location = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                self._resolved_url = url
                return response
            response.close()
            next_url = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(next_url).scheme != "https":
                message = f"The server of {self.name} redirects to an unencrypted address"
                raise DownloadError(message, "Report it to the site")
            url = next_url
        raise DownloadError(f"The server of {self.name} redirects in a loop", "Try again later")

    def _check_response(self, response: httpx2.Response, start: int) -> int:
        """Return the offset of the first byte of the response."""
        status, headers = response.status_code, response.headers
        if status == 206:
            match = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                raise TransferInterrupted("the server sent a different range")
            if self.size and match[3] != "*" and int(match[3]) != self.size:
                raise self._changed_error()
            self._check_validator(headers)
            self.supports_ranges = True
            return start
        if status == 200:
            return self._check_full_response(headers, start)
        is_redirected, self._resolved_url = self._resolved_url != self.url, ""
        if status in RETRYABLE_STATUSES:
            reason = {429: "the server asks for fewer requests", 503: "the server is busy"}.get(status)
            wait_s = parse_retry_after(headers)
            raise TransferInterrupted(reason or f"the server answered {status}", wait_s=wait_s)
        if is_redirected:
            # The signed URL expired, or its file is gone: ask for a new one.
            raise TransferInterrupted(f"the download link expired ({status})")
        if status in (401, 403):
            if self.make_access_error:
                raise self.make_access_error(headers)
            raise AccessDenied(f"The server denied access to {self.name} ({status})", "Check the address")
        if status == 416:
            raise self._changed_error()
        if status in (404, 410):
            raise DownloadError(f"The server has no {self.name}", "Check the address")
        raise DownloadError(f"The server answered {status} when asked for {self.name}", TRY_AGAIN)

    def _check_full_response(self, headers: Mapping[str, str], start: int) -> int:
        length = headers.get("Content-Length", "")
        if headers.get("Content-Type", "").startswith("text/html"):
            raise TransferInterrupted("the server sent a web page instead of the file")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise TransferInterrupted("the server sent the file in another encoding")
        self._check_validator(headers)
        if self.size and length and length != str(self.size):
            raise TransferInterrupted("the server sent something other than the file")
        if start and self.supports_ranges is not False:
            raise TransferInterrupted("the server sent the file from its beginning", ignores_ranges=True)
        return 0

    def _check_validator(self, headers: Mapping[str, str]) -> None:
        if self.validator and headers.get("ETag", self.validator) != self.validator:
            raise self._changed_error()

    def _changed_error(self) -> DownloadError:
        return DownloadError(f"{self.name} changed on the server since the download began", "Pull it again")


def _limit_receive_buffer(response: httpx2.Response) -> None:
    """Limit what a killed process loses: bytes received but not read are sent again. A server in this network needs no
    larger buffer; a distant one does, for its speed."""
    stream = response.extensions.get("network_stream")
    connection = stream.get_extra_info("socket") if stream else None
    with suppress(OSError, ValueError):
        if connection and ip_address(connection.getpeername()[0]).is_private:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 10)


def offline_error() -> HubUnreachable:
    """Return the error for a connection in offline mode."""
    return HubUnreachable("Offline mode: no connection was made", "Unset HF_HUB_OFFLINE or leave out --offline")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port


def parse_retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds to wait, from a number or an HTTP date; 0 if there is no such header."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        retry_at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (retry_at.replace(tzinfo=retry_at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
