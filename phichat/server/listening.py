"""The server on its socket, from the first connection to a clean end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from threading import current_thread, main_thread
from time import monotonic
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from phichat.errors import ServeError
from phichat.server.engines import Engines

_BACKLOG = 128
_MOST_CONNECTIONS = 256
_IDLE_S = 15.0
"""How long a connection may ask nothing."""

_STUCK_S = 60.0
"""How long a client may read nothing of what is there for it."""

_GRACE_S = 3
"""How long the ends of answers may take on their way, once the server is stopped."""


@dataclass(frozen=True, slots=True)
class Place:
    """A resolved address of this machine. socket_address: as the family has it."""

    host: str
    family: int
    socket_address: tuple[Any, ...]

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ip_address(self.socket_address[0].partition("%")[0]).is_loopback


def place(host: str, port: int) -> Place:
    """Where to listen; port 0 takes a free one. Raises ServeError."""
    try:
        family, *_, found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as why:
        raise ServeError(f"{host} is no address ({why})", "leave --host out to serve this machine only") from why
    return Place(host, family, found)


def bound(where: Place) -> socket.socket:
    """A socket there. Raises ServeError."""
    listening = socket.socket(where.family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            # The other option means there that two programs may listen at one port.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where.socket_address)
        listening.listen(_BACKLOG)
    except OSError as why:
        listening.close()
        raise ServeError(
            f"phichat serve cannot listen at port {where.socket_address[1]} of {where.host} ({why.strerror or why})",
            "choose another --port, or 0 for any that is free",
        ) from why
    return listening


def address(listening: socket.socket) -> str:
    """Where a client of this machine finds it."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Ends by a signal like any verb, and lets go of connections that only take up room."""

    def __init__(self, config: uvicorn.Config, engines: Engines, begun: Callable[[], None]) -> None:
        super().__init__(config)
        self._engines, self._begun = engines, begun
        self._idle_since: dict[H11Protocol, float] = {}
        self._stuck_since: dict[H11Protocol, tuple[int, float]] = {}

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        await super().startup(sockets)
        self._begun()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, but a signal that was answered by a clean end is not raised once more."""
        if current_thread() is not main_thread():
            yield  # only the main thread gets signals
            return
        before = {number: signal.signal(number, self.handle_exit) for number in uvicorn.server.HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first one ends what is being answered, the second one does not wait for it."""
        self.force_exit = self.should_exit
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 10 == 0:
            self._sweep()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell everybody who waits for an answer, and end."""
        self._engines.stop()
        grace = asyncio.get_running_loop().call_later(_GRACE_S, self._let_go_of, self.server_state.connections)
        await super().shutdown(sockets)
        grace.cancel()
        await self._engines.ended()

    def _sweep(self) -> None:
        now = monotonic()
        here = [one for one in self.server_state.connections if isinstance(one, H11Protocol)]
        self._idle_since = {
            one: self._idle_since.get(one, now) for one in here if one.cycle is None or one.cycle.response_complete
        }
        unread = {one: one.transport.get_write_buffer_size() for one in here}
        self._stuck_since = {
            one: before if (before := self._stuck_since.get(one)) and before[0] == size else (size, now)
            for one, size in unread.items()
            if size
        }
        overdue = [one for one, since in self._idle_since.items() if now - since > _IDLE_S]
        overdue += [one for one, (_, since) in self._stuck_since.items() if now - since > _STUCK_S]
        self._let_go_of(overdue)

    @staticmethod
    def _let_go_of(connections: Iterable[Any]) -> None:
        for one in tuple(connections):
            one.transport.abort()


class _Remarks(logging.Handler):
    """What libraries log, as lines of ours."""

    def __init__(self, tell: Callable[[str], None], *, with_traces: bool) -> None:
        super().__init__()
        self._tell, self._with_traces = tell, with_traces

    def emit(self, record: logging.LogRecord) -> None:
        """As logging.Handler."""
        self._tell(record.getMessage())
        if self._with_traces and record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).splitlines():
                self._tell(line)


def server(
    app: Starlette, listening: socket.socket, engines: Engines, tell: Callable[[str], None], *, debug: bool
) -> Server:
    """What serves the app at that socket. debug: each request is logged."""
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=debug,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=2 * _GRACE_S,
    )
    return Server(config, engines, lambda: tell(f"Listening at {address(listening)}/v1; Ctrl-C ends it."))


@contextmanager
def remarks(tell: Callable[[str], None], *, debug: bool) -> Iterator[None]:
    """What libraries log goes to `tell`: with debug all of it and tracebacks, else only what is wrong here."""
    handler, root = _Remarks(tell, with_traces=debug), logging.getLogger()
    root.addHandler(handler)
    # What clients send in a wrong form is theirs to know.
    logging.getLogger("uvicorn").setLevel(logging.INFO if debug else logging.ERROR)
    try:
        yield
    finally:
        root.removeHandler(handler)
