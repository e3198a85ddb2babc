"""One exchange with a server, in a thread of its own, so that whoever waits can leave at once."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from multiprocessing.connection import wait
from threading import Semaphore, Thread
from time import monotonic
from typing import Any

from phichat.engine.cancel import Cancel
from phichat.engine.remote.stream import Document
from phichat.engine.remote.trouble import Kind, Trouble

_AHEAD = 256
"""Documents that wait for who asked; a server that is faster is read no further."""

_ONLY_ALIVE = 10
"""A server that only says that it is alive, and nothing else, is waited for this many times as long."""


def exchange(
    work: Callable[[Exchange], None], cancel: Cancel, silence_s: Callable[[], float]
) -> Generator[Document, None, None]:
    """The documents that work brings; ends early when cancelled. silence_s: how long it may say nothing now.

    Raises Trouble, and whatever work raises.
    """
    begun = Exchange(work)
    begun.start()
    try:
        yield from begun.documents(cancel, silence_s)
    finally:
        begun.leave()


class Exchange(Thread):
    """A request, and its answer as it comes.

    Left by its user it closes its connection, in whatever state that is. has_answer: one has begun to come.
    is_asking: the server's time runs; what is needed to ask at all has its own.
    """

    def __init__(self, work: Callable[[Exchange], None]) -> None:
        super().__init__(name="phichat-endpoint", daemon=True)
        self._work = work
        self._items: deque[Document | Exception | None] = deque()
        self._room = Semaphore(_AHEAD)
        self._news, self._tell = socket.socketpair()
        self._tell.settimeout(0)
        self._line: socket.socket | None = None
        self.is_asking = self.has_answer = self.is_left = False

    def run(self) -> None:
        """In the thread."""
        try:
            self._work(self)
        except Exception as why:  # noqa: BLE001  (raised where it is waited for)
            self._items.append(why)
        finally:
            self._items.append(None)
            self._wake()

    def asks(self) -> None:
        """From now on the server is waited for."""
        self.is_asking = True
        self._wake()

    def saw(self, name: str, info: Mapping[str, Any]) -> None:
        """The transport tells of the connection, which may come too late."""
        if name.endswith("connect_tcp.complete"):
            # A handle of our own: TLS takes the other away, and nobody may close it under whoever reads.
            self._line = info["return_value"].get_extra_info("socket").dup()
            if self.is_left:
                self._hang_up()

    def put_each(self, documents: Iterator[Document], is_alive: Callable[[], bool]) -> None:
        """Hand them over; is_alive: whether to tell of life even when there are none. Raises what they raise."""
        has_come = False
        try:
            for document in documents:
                if not self._room.acquire(blocking=False):
                    self._wake()
                    self._room.acquire()
                if self.is_left:
                    return
                self._items.append(document)
                has_come = True
        finally:
            if has_come or is_alive():
                self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake then
            self._tell.send(b"\0")

    def documents(self, cancel: Cancel, silence_s: Callable[[], float]) -> Iterator[Document]:
        """For its user. Raises Trouble, and whatever the work raises."""
        last_at = monotonic()
        while True:
            arrived = wait([cancel, self._news], silence_s() if self.is_asking else None)  # type: ignore[list-item]
            if cancel.is_set():
                return
            if not arrived or (not self._items and monotonic() - last_at > _ONLY_ALIVE * silence_s()):
                raise Trouble(Kind.SILENT)
            self._news.recv(4096)
            while self._items and not cancel.is_set():
                item = self._items.popleft()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                self._room.release()
                yield item
                last_at = monotonic()

    def leave(self) -> None:
        """Nobody listens any more."""
        self.is_left = True
        self._room.release()
        self._hang_up()

    def _hang_up(self) -> None:
        if self._line is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._line.shutdown(socket.SHUT_RDWR)
            self._line.close()
