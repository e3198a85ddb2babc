"""Who is let in: the programs of this machine's user, and whoever has the key; no page of a browser."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from phichat.errors import ApiError
from phichat.server.responses import encode_json, error_document

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
_PUBLIC_PATHS = "/health"
"""Needs no key: it says nothing but that the server is there."""


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Where is listened. names: under which a client may speak of it, in lower case, IPv6 addresses in brackets.

    also: `NAME`, at any port, or `NAME:PORT`, that the user allows beside them. any_address: whether a number will
    do for a name: a page whose name was made to lead here (DNS rebinding) has a name. key: "" for none.
    """

    port: int
    host_names: tuple[str, ...] = _LOOPBACK_HOSTS
    allowed_hosts: tuple[str, ...] = ()
    allow_any_address: bool = False
    api_key: str = ""


def access_policy(
    host: str, bound_address: tuple[str, int], allowed_hosts: Iterable[str], api_key: str
) -> AccessPolicy:
    """The one that a socket was bound for: host as it was asked for, address as it came out."""
    bound_host, port = bound_address
    host_names = dict.fromkeys((*_LOOPBACK_HOSTS, _bracket_ipv6(host.lower()), _bracket_ipv6(bound_host)))
    is_any = ip_address(bound_host.partition("%")[0]).is_unspecified
    if is_any:
        host_names |= dict.fromkeys((socket.gethostname().lower(), socket.getfqdn().lower()))
    return AccessPolicy(port, tuple(host_names), tuple(name.lower() for name in allowed_hosts), is_any, api_key)


def _bracket_ipv6(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def check_access(path: str, headers: Sequence[tuple[bytes, bytes]], policy: AccessPolicy) -> ApiError | None:
    """Why a request is not let in. headers: names in lower case."""
    first_headers: dict[bytes, bytes] = {}
    for name, value in headers:
        first_headers.setdefault(name, value)
    if sum(name == b"host" for name, _ in headers) != 1 or not _is_allowed_host(first_headers[b"host"], policy):
        return ApiError(
            "The Host of this request is not this server's",
            "Use the address that `phichat serve` has printed, or allow the name with --allow-host",
            status=421,
            code="wrong_host",
        )
    if b"origin" in first_headers or first_headers.get(b"sec-fetch-site", b"none") != b"none":
        return ApiError(
            "phichat serve does not answer pages in a browser", "Ask from a program", status=403, code="browser"
        )
    if (
        policy.api_key
        and path != _PUBLIC_PATHS
        and not _has_key(first_headers.get(b"authorization", b""), policy.api_key)
    ):
        return ApiError(
            "The API key is missing or wrong",
            "Send it as `Authorization: Bearer KEY`",
            status=401,
            code="invalid_api_key",
        )
    return None


def _is_allowed_host(host: bytes, policy: AccessPolicy) -> bool:
    text = host.decode("latin-1").strip().lower()
    bracket_end = text.rfind("]") + 1
    name, colon, port = (
        text[:bracket_end] + text[bracket_end:].partition(":")[0],
        *text[bracket_end:].partition(":")[1:],
    )
    if name in policy.allowed_hosts or text in policy.allowed_hosts:
        return not colon or port.isdecimal()
    if (port if colon else "80") != str(policy.port):
        return False
    return name in policy.host_names or (policy.allow_any_address and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _has_key(authorization: bytes, key: str) -> bool:
    scheme, _, sent_key = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(sent_key.strip(), key.encode())


class AccessMiddleware:
    """Asks for the door's conditions before anything else is done, the reading of a body too."""

    def __init__(self, app: ASGIApp, policy: AccessPolicy) -> None:
        self._app, self._policy = app, policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI."""
        if scope["type"] == "http" and (error := check_access(scope["path"], scope["headers"], self._policy)):
            return await error_response(error)(scope, receive, send)
        await self._app(scope, receive, send)


def error_response(error: ApiError) -> Response:
    """An error as HTTP."""
    headers = {"cache-control": "no-store"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(encode_json(error_document(error)), error.status, headers, "application/json")
