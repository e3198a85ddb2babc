"""Access policy: programs on this machine and clients with the key are served, pages in a browser never."""

from __future__ import annotations

import hmac
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from phichat.errors import ApiError
from phichat.server.responses import error_response

_LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Conditions that a request must meet.

    host_names: accepted in the Host header with this port; in lower case, IPv6 addresses in brackets.
    allowed_hosts: added by the user, as `NAME` (any port) or `NAME:PORT`. allow_any_address: accept every IP address
    as a host, since DNS rebinding needs a name. api_key: "" for none.
    """

    port: int
    host_names: tuple[str, ...] = _LOOPBACK_HOSTS
    allowed_hosts: tuple[str, ...] = ()
    allow_any_address: bool = False
    api_key: str = ""


def access_policy(host: str, bound: tuple[str, int], allowed_hosts: Iterable[str], api_key: str) -> AccessPolicy:
    """Return the policy of a listening socket. host: as the user gave it. bound: address of the socket."""
    bound_host, port = bound
    host_names = dict.fromkeys((*_LOOPBACK_HOSTS, _bracket_ipv6(host.lower()), _bracket_ipv6(bound_host)))
    if is_any := ip_address(bound_host.partition("%")[0]).is_unspecified:
        host_names |= dict.fromkeys((socket.gethostname().lower(), socket.getfqdn().lower()))
    return AccessPolicy(port, tuple(host_names), tuple(name.lower() for name in allowed_hosts), is_any, api_key)


def _bracket_ipv6(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def check_access(path: str, headers: Headers, policy: AccessPolicy) -> ApiError | None:
    """Return the error of a request that is refused, else None."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _is_allowed_host(hosts[0].strip().lower(), policy):
        next_step = "Use the address that `phichat serve` printed, or allow this name with --allow-host"
        return ApiError("The request has an unexpected Host header", next_step, status=421, code="wrong_host")
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        message = "phichat serve refuses requests of pages in a browser"
        return ApiError(message, "Send the request from a program", status=403, code="browser")
    scheme, _, sent_key = headers.get("authorization", "").partition(" ")
    has_key = scheme.lower() == "bearer" and hmac.compare_digest(sent_key.strip().encode(), policy.api_key.encode())
    if has_key or not policy.api_key or path == "/health":  # which reveals only that the server runs
        return None
    next_step = "Send it as `Authorization: Bearer KEY`"
    return ApiError("The API key is missing or wrong", next_step, status=401, code="invalid_api_key")


def _is_allowed_host(text: str, policy: AccessPolicy) -> bool:
    bracket_end = text.rfind("]") + 1
    rest, colon, port = text[bracket_end:].partition(":")
    name = text[:bracket_end] + rest
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


@dataclass(frozen=True)
class AccessMiddleware:
    """Middleware that applies the policy before anything else, the reading of a body included."""

    app: ASGIApp
    policy: AccessPolicy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := check_access(scope["path"], Headers(scope=scope), self.policy)):
            return await error_response(error)(scope, receive, send)
        await self.app(scope, receive, send)
