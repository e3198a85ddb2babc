"""Ranges of one remote file, whatever the server answers.

Everything that a later attempt may cure is an `Interrupted`; what it cannot cure is a typed error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from phichat.errors import AccessDenied, DownloadError, HubUnreachable, PhichatError

if TYPE_CHECKING:
    import httpx2

TRY_AGAIN = "try again later; what came is kept, and the download goes on from there"

_REDIRECTS = 8
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_PASSING = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)


class Interrupted(Exception):
    """The transfer ended before its time and may be taken up again.

    why: a clause for the user. wait_s: what the server asked for. ignores_ranges: it sent the file from the
    beginning, which is of no use then.
    """

    def __init__(self, why: str, *, wait_s: float = 0.0, ignores_ranges: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.wait_s = wait_s
        self.ignores_ranges = ignores_ranges


@dataclass(slots=True)
class Source:
    """A remote file of size bytes.

    url: where every attempt may begin; the address that it redirects to may expire. headers: sent to the server
    of url only. validator: a strong ETag that a plain server gave, so that a changed file is noticed.
    denied: the error for whoever may not read it. ranges: None until the server has shown whether it knows them.
    """

    client: httpx2.Client
    url: str
    name: str
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)
    validator: str = ""
    denied: Callable[[int, Mapping[str, str]], PhichatError] | None = None
    timeout_s: float = 10.0
    ranges: bool | None = None
    _final: str = ""

    def describe(self) -> None:
        """Learn size and validator from the server. Raises Interrupted and PhichatError."""
        with self._errors():
            response = self._open(0, 1)
            try:
                self._checked(response, 0)
                headers = response.headers
            finally:
                response.close()
        total = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
        if not total.isdecimal() or total == "0":
            raise DownloadError(f"The server does not say how large {self.name} is", "download it another way")
        self.size = int(total)
        etag = headers.get("ETag", "")
        self.validator = "" if etag.startswith("W/") else etag

    def read(self, start: int, stop: int) -> Generator[tuple[int, bytes], None, None]:
        """(offset, bytes) from start on, up to stop or, where the server knows no ranges, from 0 to the end.

        Ends early when the server does. Raises Interrupted, and PhichatError for what is final.
        """
        with self._errors():
            response = self._open(start, stop)
            try:
                offset = self._checked(response, start)
                end = stop if offset == start and self.ranges else self.size
                for piece in response.iter_raw():
                    yield offset, piece[: end - offset]
                    offset += len(piece)
                    if offset >= end:
                        break
            finally:
                response.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What the library raises, as what a caller can act on."""
        import httpx2
        from huggingface_hub.errors import OfflineModeIsEnabled

        try:
            yield
        except httpx2.TimeoutException:
            raise Interrupted("the server stopped sending") from None
        except httpx2.ConnectError:
            raise Interrupted("there is no connection") from None
        except (httpx2.TransportError, httpx2.StreamError):
            raise Interrupted("the connection broke") from None
        except httpx2.InvalidURL:
            raise DownloadError(f"The address of {self.name} is no URL", "check it") from None
        except OfflineModeIsEnabled:
            raise offline() from None

    def _open(self, start: int, stop: int) -> httpx2.Response:
        url = self._final or self.url
        wanted = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if self.validator and start:
            wanted["If-Range"] = self.validator
        for _ in range(_REDIRECTS):
            own = self.headers if _origin(url) == _origin(self.url) else {}
            request = self.client.build_request("GET", url, headers={**own, **wanted}, timeout=self.timeout_s)
            response = self.client.send(request, stream=True, follow_redirects=False)
            location = response.headers.get("Location")
            if response.status_code not in (301, 302, 303, 307, 308) or not location:
                self._final = url
                return response
            response.close()
            following = urljoin(url, location)
            if urlsplit(url).scheme == "https" and urlsplit(following).scheme != "https":
                raise DownloadError(f"The server of {self.name} leads to an unprotected address", "report it there")
            url = following
        raise DownloadError(f"The server of {self.name} redirects in a circle", "try again later")

    def _checked(self, response: httpx2.Response, start: int) -> int:
        """The offset of the first byte that comes."""
        status, headers = response.status_code, response.headers
        if status == 206:
            found = _CONTENT_RANGE.match(headers.get("Content-Range", ""))
            if found is None or int(found[1]) != start:
                raise Interrupted("the server sent another range than was asked for")
            if self.size and found[3] != "*" and int(found[3]) != self.size:
                raise self._changed()
            self._check_validator(headers)
            self.ranges = True
            return start
        if status == 200:
            return self._whole(headers, start)
        redirected = self._final != self.url
        if redirected and status not in _PASSING:
            # The signed address has expired, or the place behind it is gone: ask for a new one.
            self._final = ""
            raise Interrupted(f"the address of the file was no longer good ({status})")
        if status in _PASSING:
            self._final = ""
            raise Interrupted(_REASONS.get(status, f"the server answered {status}"), wait_s=_retry_after(headers))
        if status in (401, 403):
            raise (
                self.denied(status, headers)
                if self.denied
                else AccessDenied(f"The server does not let {self.name} be read ({status})", "check the address")
            )
        if status == 416:
            raise self._changed()
        if status in (404, 410):
            raise DownloadError(f"There is no {self.name} on the server", "check the address")
        raise DownloadError(f"The server answered {status} when asked for {self.name}", TRY_AGAIN)

    def _whole(self, headers: Mapping[str, str], start: int) -> int:
        length = headers.get("Content-Length", "")
        if headers.get("Content-Type", "").startswith("text/html"):
            raise Interrupted("the server sent a web page instead of the file")
        if headers.get("Content-Encoding", "identity") != "identity":
            raise Interrupted("the server sent the file in another encoding")
        if self.validator and headers.get("ETag", self.validator) != self.validator:
            raise self._changed()
        if self.size and length and int(length) != self.size:
            raise Interrupted("the server sent something else than the file")
        if start and self.ranges is not False:
            raise Interrupted("the server sent the file from its beginning", ignores_ranges=True)
        return 0

    def _check_validator(self, headers: Mapping[str, str]) -> None:
        if self.validator and headers.get("ETag", self.validator) != self.validator:
            raise self._changed()

    def _changed(self) -> DownloadError:
        return DownloadError(f"{self.name} has changed on the server since the download began", "pull it once more")


def offline() -> HubUnreachable:
    """The error for a connection that the user has ruled out."""
    return HubUnreachable("No connection is made offline", "unset HF_HUB_OFFLINE or leave out --offline")


_REASONS = {429: "the server asks for fewer requests", 503: "the server is busy"}


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait, from a number or an HTTP date; 0 when nothing is said."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
