"""Access policy of the server."""

import pytest
from starlette.datastructures import Headers

from phichat.server.access import AccessPolicy, access_policy, check_access

HERE = AccessPolicy(1618)
KEYED = AccessPolicy(1618, api_key="sekrit")


def status(policy: AccessPolicy, path: str = "/v1/models", **headers: str) -> int:
    """Return the status of the refusal, 0 for none."""
    given = {"host": "localhost:1618", **{name.replace("_", "-"): value for name, value in headers.items()}}
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
    error = check_access(path, Headers(raw=pairs), policy)
    return error.status if error else 0


@pytest.mark.parametrize("host", ["localhost:1618", "127.0.0.1:1618", "[::1]:1618", "LOCALHOST:1618"])
def test_names_of_this_machine_are_accepted(host: str) -> None:
    assert status(HERE, host=host) == 0


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example:1618", "evil.example", "localhost.evil.example:1618", "localhost:1618.evil.example"),
        *("localhost", "localhost:80", "localhost:", "127.0.0.2:1618", "10.0.0.1:1618", "[::2]:1618"),
        *("", ":1618", "evil@localhost:1618", "localhost:1618:1618", "[::1", "::1", "[::1]x:1618", "\xff"),
    ],
)
def test_other_names_are_refused(host: str) -> None:
    assert status(HERE, host=host) == 421


def test_one_host_is_needed() -> None:
    for headers in ([], [(b"host", b"localhost:1618"), (b"host", b"evil.example")]):
        error = check_access("/health", Headers(raw=headers), HERE)
        assert error is not None
        assert error.status == 421


def test_port_80_need_not_be_named() -> None:
    assert status(AccessPolicy(80), host="localhost") == 0


def test_names_that_the_user_allows() -> None:
    allowed = AccessPolicy(1618, allowed_hosts=("models.lan", "proxy.lan:8443"))
    assert [status(allowed, host=host) for host in ("models.lan", "models.lan:99", "proxy.lan:8443")] == [0, 0, 0]
    assert [status(allowed, host=host) for host in ("proxy.lan", "proxy.lan:1", "models.lan:x")] == [421, 421, 421]


def test_at_every_address_ip_addresses_are_accepted_and_other_names_are_not() -> None:
    everywhere = access_policy("0.0.0.0", ("0.0.0.0", 1618), (), "k")
    key = "Bearer k"
    assert status(everywhere, host="192.168.1.9:1618", authorization=key) == 0
    assert status(everywhere, host="[fe80::1]:1618", authorization=key) == 0
    assert status(everywhere, host="evil.example:1618", authorization=key) == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1618"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_pages_in_a_browser_are_refused(headers: dict[str, str]) -> None:
    assert status(HERE, **headers) == 403


def test_an_address_typed_into_a_browser_is_accepted() -> None:
    assert status(HERE, sec_fetch_site="none") == 0


@pytest.mark.parametrize(
    "given", ["Bearer wrong", "Bearer ", "sekrit", "Basic sekrit", "Bearer sekrit2", "Bearer \xe9"]
)
def test_the_key_is_needed(given: str) -> None:
    assert status(KEYED) == 401
    assert status(KEYED, authorization=given) == 401
    assert status(KEYED, authorization="Bearer sekrit") == 0
    assert status(KEYED, authorization="bearer sekrit") == 0


def test_health_needs_a_valid_host_but_no_key() -> None:
    assert status(KEYED, "/health") == 0
    assert status(KEYED, "/health", host="evil.example") == 421
