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

from phichat.cancel import CancelToken
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind
from phichat.engine.remote.sse import JsonObject

_MAX_BUFFERED = 256
"""Documents that wait for who asked; a server that is faster is read no further."""

_KEEPALIVE_TIMEOUT_FACTOR = 10
"""A server that only says that it is alive, and nothing else, is waited for this many times as long."""


def stream_documents(
    run_request: Callable[[RequestThread], None], cancel: CancelToken, get_idle_timeout: Callable[[], float]
) -> Generator[JsonObject, None, None]:
    """The documents that work brings; ends early when cancelled. silence_s: how long it may say nothing now.

    Raises Trouble, and whatever work raises.
    """
    thread = RequestThread(run_request)
    thread.start()
    try:
        yield from thread.iter_documents(cancel, get_idle_timeout)
    finally:
        thread.abandon()


class RequestThread(Thread):
    """A request, and its answer as it comes.

    Left by its user it closes its connection, in whatever state that is. has_answer: one has begun to come.
    is_asking: the server's time runs; what is needed to ask at all has its own.
    """

    def __init__(self, run_request: Callable[[RequestThread], None]) -> None:
        super().__init__(name="phichat-endpoint", daemon=True)
        self._run_request = run_request
        self._queue: deque[JsonObject | Exception | None] = deque()
        self._free_slots = Semaphore(_MAX_BUFFERED)
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_sender.settimeout(0)
        self._socket: socket.socket | None = None
        self.is_sent = self.has_response = self.is_abandoned = False

    def run(self) -> None:
        """In the thread."""
        try:
            self._run_request(self)
        except Exception as error:  # noqa: BLE001  (raised where it is waited for)
            self._queue.append(error)
        finally:
            self._queue.append(None)
            self._signal()

    def mark_sent(self) -> None:
        """From now on the server is waited for."""
        self.is_sent = True
        self._signal()

    def on_trace(self, name: str, info: Mapping[str, Any]) -> None:
        """The transport tells of the connection, which may come too late."""
        if name.endswith("connect_tcp.complete"):
            # A handle of our own: TLS takes the other away, and nobody may close it under whoever reads.
            self._socket = info["return_value"].get_extra_info("socket").dup()
            if self.is_abandoned:
                self._close_socket()

    def enqueue_all(self, documents: Iterator[JsonObject], is_active: Callable[[], bool]) -> None:
        """Hand them over; is_alive: whether to tell of life even when there are none. Raises what they raise."""
        has_documents = False
        try:
            for document in documents:
                if not self._free_slots.acquire(blocking=False):
                    self._signal()
                    self._free_slots.acquire()
                if self.is_abandoned:
                    return
                self._queue.append(document)
                has_documents = True
        finally:
            if has_documents or is_active():
                self._signal()

    def _signal(self) -> None:
        with contextlib.suppress(OSError):  # full: it is awake then
            self._wake_sender.send(b"\0")

    def iter_documents(self, cancel: CancelToken, get_idle_timeout: Callable[[], float]) -> Iterator[JsonObject]:
        """For its user. Raises Trouble, and whatever the work raises."""
        last_document_at = monotonic()
        while True:
            ready = wait([cancel, self._wake_receiver], get_idle_timeout() if self.is_sent else None)  # type: ignore[list-item]
            if cancel.is_set():
                return
            if not ready or (
                not self._queue and monotonic() - last_document_at > _KEEPALIVE_TIMEOUT_FACTOR * get_idle_timeout()
            ):
                raise RemoteError(RemoteErrorKind.TIMEOUT)
            self._wake_receiver.recv(4096)
            while self._queue and not cancel.is_set():
                item = self._queue.popleft()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                self._free_slots.release()
                yield item
                last_document_at = monotonic()

    def abandon(self) -> None:
        """Nobody listens any more."""
        self.is_abandoned = True
        self._free_slots.release()
        self._close_socket()

    def _close_socket(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # it is closed already
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
