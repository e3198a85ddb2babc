"""Uvicorn server on a socket of ours, from the first connection to a clean shutdown."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from time import monotonic
from types import FrameType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from phichat.errors import ServerBindError, UsageError
from phichat.server.dispatch import Dispatcher

_IDLE_TIMEOUT_S, _WRITE_TIMEOUT_S, _SHUTDOWN_TIMEOUT_S = 15.0, 60.0, 3
"""How long a connection may be without a request, how long a client may leave its response unread, and how long the
ends of responses may take to be sent once the server stops."""


def bind_socket(host: str, port: int, *, has_key: bool) -> socket.socket:
    """Return a listening socket; port 0 takes a free one. has_key: clients need a key.

    Raises ServerBindError, and UsageError where other machines could connect without a key.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        message = f"{host} isn't a valid address ({error})"
        raise ServerBindError(message, "Omit --host to serve this machine only") from error
    if not has_key and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        next_step = "Put a key in an environment variable and pass its name with --api-key-env"
        raise UsageError(f"Other machines can reach {host}, but no API key is set", next_step)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # SO_REUSEADDR would let two programs listen on one port.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        message = f"phichat serve cannot listen on port {port} of {host} ({error.strerror or error})"
        raise ServerBindError(message, "Choose another --port, or 0 for any free one") from error
    return listener


class PhichatServer(uvicorn.Server):
    """Uvicorn server that ends by a signal like any command, and drops idle and stuck connections.

    log: prints a line for the operator. debug: log each request.
    """

    def __init__(self, app: Starlette, dispatcher: Dispatcher, log: Callable[[str], None], *, debug: bool) -> None:
        config = uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=debug,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=256,
            timeout_graceful_shutdown=2 * _SHUTDOWN_TIMEOUT_S,
        )
        super().__init__(config)
        self._dispatcher, self._log = dispatcher, log
        self._unchanged_since: dict[H11Protocol, tuple[tuple[bool, int], float]] = {}
        """By connection: that it is idle, its unread bytes, and the time since when both are the same."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start on a listening socket, and log its URL for clients on this machine."""
        assert sockets
        await super().startup(sockets)
        host, port = sockets[0].getsockname()[:2]
        self._log(f"Listening on http://{f'[{host}]' if ':' in host else host}:{port}/v1. Press Ctrl-C to stop.")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully at the first signal, at once at the second.

        Uvicorn's own method would note the signal, to raise it once more after a clean shutdown.
        """
        self.force_exit = self.should_exit
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Drop stale connections once a second; uvicorn calls this ten times a second."""
        if counter % 10 == 0:
            self._abort_stale()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all responses, then the server."""
        self._dispatcher.stop()
        abort_timer = asyncio.get_running_loop().call_later(_SHUTDOWN_TIMEOUT_S, self._abort_all)
        await super().shutdown(sockets)
        abort_timer.cancel()
        await self._dispatcher.wait_until_idle()

    def _abort_stale(self) -> None:
        now, previous, self._unchanged_since = monotonic(), self._unchanged_since, {}
        for connection in tuple(self.server_state.connections):
            if isinstance(connection, H11Protocol):
                is_idle = connection.cycle is None or connection.cycle.response_complete
                state = is_idle, connection.transport.get_write_buffer_size()
                last_state, since = previous.get(connection, (state, now))
                since = since if last_state == state else now
                self._unchanged_since[connection] = state, since
                if any(state) and now - since > (_IDLE_TIMEOUT_S if is_idle else _WRITE_TIMEOUT_S):
                    connection.transport.abort()

    def _abort_all(self) -> None:
        for connection in tuple(self.server_state.connections):
            connection.transport.abort()


class _CallbackLogHandler(logging.Handler):
    """Handler that passes the log of libraries to a callback, line by line."""

    def __init__(self, log: Callable[[str], None], *, with_tracebacks: bool) -> None:
        super().__init__()
        self._log, self._with_tracebacks = log, with_tracebacks

    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record) if self._with_tracebacks else record.getMessage()
        for line in text.splitlines():
            self._log(line)


@contextmanager
def forward_logs(log: Callable[[str], None], *, debug: bool) -> Iterator[None]:
    """Send the log of libraries to a callback: everything with debug, else only errors of this side."""
    handler, root = _CallbackLogHandler(log, with_tracebacks=debug), logging.getLogger()
    root.addHandler(handler)
    # Malformed requests are the clients' own business.
    logging.getLogger("uvicorn").setLevel(logging.INFO if debug else logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
