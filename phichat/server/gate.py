"""Who is let in: the programs of this machine's user, and whoever has the key; no page of a browser."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from phichat.errors import RequestRefused
from phichat.server.documents import encoded, error_document

_HERE = ("localhost", "127.0.0.1", "[::1]")
_OPEN = "/health"
"""Needs no key: it says nothing but that the server is there."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where is listened. names: under which a client may speak of it, in lower case, IPv6 addresses in brackets.

    also: `NAME`, at any port, or `NAME:PORT`, that the user allows beside them. any_address: whether a number will
    do for a name: a page whose name was made to lead here (DNS rebinding) has a name. key: "" for none.
    """

    port: int
    names: tuple[str, ...] = _HERE
    also: tuple[str, ...] = ()
    any_address: bool = False
    key: str = ""


def door(host: str, address: tuple[str, int], also: Iterable[str], key: str) -> Door:
    """The one that a socket was bound for: host as it was asked for, address as it came out."""
    bound, port = address
    names = dict.fromkeys((*_HERE, _bracketed(host.lower()), _bracketed(bound)))
    is_any = ip_address(bound.partition("%")[0]).is_unspecified
    if is_any:
        names |= dict.fromkeys((socket.gethostname().lower(), socket.getfqdn().lower()))
    return Door(port, tuple(names), tuple(name.lower() for name in also), is_any, key)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def objection(path: str, headers: Sequence[tuple[bytes, bytes]], door: Door) -> RequestRefused | None:
    """Why a request is not let in. headers: names in lower case."""
    given: dict[bytes, bytes] = {}
    for name, value in headers:
        given.setdefault(name, value)
    if sum(name == b"host" for name, _ in headers) != 1 or not _is_ours(given[b"host"], door):
        return RequestRefused(
            "The Host of this request is not this server's",
            "use the address that `phichat serve` has printed, or allow the name with --allow-host",
            status=421,
            code="wrong_host",
        )
    if b"origin" in given or given.get(b"sec-fetch-site", b"none") != b"none":
        return RequestRefused(
            "phichat serve does not answer pages in a browser", "ask from a program", status=403, code="browser"
        )
    if door.key and path != _OPEN and not _has_key(given.get(b"authorization", b""), door.key):
        return RequestRefused(
            "The API key is missing or wrong",
            "send it as `Authorization: Bearer KEY`",
            status=401,
            code="invalid_api_key",
        )
    return None


def _is_ours(host: bytes, door: Door) -> bool:
    text = host.decode("latin-1").strip().lower()
    end = text.rfind("]") + 1
    name, colon, port = text[:end] + text[end:].partition(":")[0], *text[end:].partition(":")[1:]
    if name in door.also or text in door.also:
        return not colon or port.isdecimal()
    if (port if colon else "80") != str(door.port):
        return False
    return name in door.names or (door.any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _has_key(authorization: bytes, key: str) -> bool:
    scheme, _, given = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), key.encode())


class Gate:
    """Asks for the door's conditions before anything else is done, the reading of a body too."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app, self._door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] == "http" and (why := objection(scope["path"], scope["headers"], self._door)):
            return await error_response(why)(scope, receive, send)
        await self._app(scope, receive, send)


def error_response(error: RequestRefused) -> Response:
    """An error as HTTP."""
    headers = {"cache-control": "no-store"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(encoded(error_document(error)), error.status, headers, "application/json")
