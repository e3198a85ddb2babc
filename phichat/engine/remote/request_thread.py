"""One HTTP request in a thread of its own, so that its user can leave at once."""

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

GetTimeout = Callable[[], float]


class RequestThread(Thread):
    """A request and the documents of its response; abandoned by its user, it closes its connection in any state."""

    def __init__(self, run_request: Callable[[RequestThread], None]) -> None:
        super().__init__(name="phichat-endpoint", daemon=True)
        self._run_request = run_request
        self._queue: deque[JsonObject | Exception | None] = deque()
        self._free_slots = Semaphore(256)  # documents to read ahead of the user; a faster server has to wait
        self._wake_receiver, self._wake_sender = socket.socketpair()
        self._wake_sender.settimeout(0)
        self._socket: socket.socket | None = None
        self._is_sent = False
        self.is_abandoned = False

    # In the user's thread

    def stream(self, cancel: CancelToken, get_idle_timeout: GetTimeout) -> Generator[JsonObject, None, None]:
        """Start the request and yield its documents as they arrive; ends early when cancelled.

        get_idle_timeout: returns the seconds that the server may be silent at this point.
        Raises RemoteError, and whatever run_request raises.
        """
        self.start()
        last_document_at = monotonic()
        try:
            while True:
                ready = wait([cancel, self._wake_receiver], get_idle_timeout() if self._is_sent else None)  # type: ignore[list-item]
                if cancel.is_set():
                    return
                silence_s = 0.0 if self._queue else monotonic() - last_document_at
                # A server may send nothing but signs of life for ten times the idle timeout.
                if not ready or silence_s > 10 * get_idle_timeout():
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
        finally:
            self.is_abandoned = True
            self._free_slots.release()
            self._close_socket()

    # In this thread

    def run(self) -> None:
        """Run the request; its error is raised in the user's thread."""
        try:
            self._run_request(self)
        except Exception as error:  # noqa: BLE001  (the outermost frame of the thread)
            self._queue.append(error)
        finally:
            self._queue.append(None)
            self.wake_user()

    def mark_sent(self) -> None:
        """Start the idle timeout: what comes before, such as imports, is not the server's time."""
        self._is_sent = True
        self.wake_user()

    def on_trace(self, name: str, info: Mapping[str, Any]) -> None:
        """Keep the socket of the new connection: the trace extension of httpx calls this."""
        if name.endswith("connect_tcp.complete"):
            # A duplicate: TLS detaches the original, and it must not be closed while this thread reads from it.
            self._socket = info["return_value"].get_extra_info("socket").dup()
            if self.is_abandoned:
                self._close_socket()

    def enqueue(self, documents: Iterator[JsonObject]) -> None:
        """Hand documents to the user, waiting while too many are unread. Raises what the iterator raises."""
        for document in documents:
            if not self._free_slots.acquire(blocking=False):
                self.wake_user()
                self._free_slots.acquire()
            if self.is_abandoned:
                return
            self._queue.append(document)

    def wake_user(self) -> None:
        """Let the user look at the queue, or see that the server is alive."""
        with contextlib.suppress(OSError):  # a full buffer wakes too
            self._wake_sender.send(b"\0")

    def _close_socket(self) -> None:
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
