"""Clients of an engine process: a connection each, with a thread that receives requests."""

import contextlib
from collections.abc import Callable
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Any

from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import EngineReply, Request

_MAX_QUEUED_REPLIES = 200  # replies queued for a client that does not read them, after which its request pauses


class Client:
    """One connection to a client process.

    buffered: a thread of its own sends the replies, so that a client which does not read delays no other one.
    Unbuffered, `send` waits for the client, and nothing that was sent is lost if this process dies.
    cancel_event: of the request being answered, None between requests.
    prompt_cache: the prompt of its last request, by chat template and messages.
    """

    def __init__(self, connection: protocol.Connection, *, buffered: bool) -> None:
        self.connection = connection
        self.cancel_event: Event | None = None
        self.prompt_cache: dict[object, Any] = {}
        self._is_closed, self._is_buffered = False, buffered
        self._outbox: SimpleQueue[EngineReply | None] = SimpleQueue()
        if buffered:
            Thread(target=self._send_loop, daemon=True).start()

    def send(self, reply: EngineReply) -> None:
        """Send a reply, from any thread; one to a client that has disconnected is dropped."""
        if self._is_buffered:
            self._outbox.put(reply)
            return
        with contextlib.suppress(OSError):
            protocol.send(self.connection, reply)

    def _send_loop(self) -> None:
        with contextlib.suppress(OSError):
            while (reply := self._outbox.get()) is not None:
                protocol.send(self.connection, reply)

    @property
    def is_backpressured(self) -> bool:
        """True while the client does not read its replies."""
        return self._outbox.qsize() > _MAX_QUEUED_REPLIES

    def is_connected(self) -> bool:
        """Return True until the connection is closed."""
        return not self._is_closed

    def close(self) -> None:
        """Close the connection."""
        self._is_closed = True
        self._outbox.put(None)
        self.connection.close()


class ClientRegistry:
    """Connected clients.

    on_request: called with each request but CancelRequest, in the thread of its client.
    on_last_disconnect: called in the thread of the last client when it has disconnected.
    """

    def __init__(self, on_request: Callable[[Client, Request], None], on_last_disconnect: Callable[[], None]) -> None:
        self._on_request, self._on_last_disconnect = on_request, on_last_disconnect
        self._clients: list[Client] = []
        self._last_active_at = monotonic()

    @property
    def count(self) -> int:
        """Number of connected clients."""
        return len(self._clients)

    @property
    def idle_seconds(self) -> float:
        """Seconds since the last request was answered; 0 while one is being answered."""
        if any(client.cancel_event for client in tuple(self._clients)):
            return 0.0
        return monotonic() - self._last_active_at

    def add(self, connection: protocol.Connection, *, buffered: bool = True) -> None:
        """Serve one more client, from any thread."""
        client = Client(connection, buffered=buffered)
        self._clients.append(client)
        Thread(target=self._receive_loop, args=(client,), daemon=True).start()

    def broadcast(self, reply: EngineReply) -> None:
        """Send a reply to every connected client."""
        for client in tuple(self._clients):
            client.send(reply)

    def finish_request(self, client: Client, reply: EngineReply) -> None:
        """Send the final reply to a client's request; it may send the next one then."""
        client.cancel_event = None
        self._last_active_at = monotonic()
        client.send(reply)

    def _receive_loop(self, client: Client) -> None:
        with contextlib.suppress(EOFError, OSError, protocol.ProtocolError):
            while True:
                request = protocol.receive_request(client.connection)
                if not isinstance(request, protocol.CancelRequest):
                    self._on_request(client, request)
                elif cancel_event := client.cancel_event:
                    cancel_event.set()
        self._clients.remove(client)
        if cancel_event := client.cancel_event:
            cancel_event.set()
        if not self._clients:
            self._on_last_disconnect()
        client.close()
