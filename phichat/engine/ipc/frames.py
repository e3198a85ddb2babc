"""Connection over a socket, compatible with the other end's `multiprocessing.connection`.

A frame is the length in four bytes, then the message. Importing multiprocessing takes longer than one request to an
engine that runs already.
"""

import math
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any

if sys.platform == "win32":
    from multiprocessing.connection import wait
else:
    import select

    def wait(objects: Sequence[Any], timeout: float | None = None) -> list[Any]:
        """Wait at most `timeout` seconds; return the objects with something to read, or its end. Raises OSError."""
        poll = select.poll()
        for waitable in objects:
            poll.register(waitable, select.POLLIN)
        ready = {handle for handle, _ in poll.poll(None if timeout is None else math.ceil(timeout * 1000))}
        return [each for each in objects if each.fileno() in ready]


class SocketConnection:
    """One end of a blocking stream socket. Its methods raise OSError, also once it is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send_bytes(self, buf: bytes) -> None:
        """Send one message."""
        self._socket.sendall(struct.pack("!i", len(buf)) + buf)

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        """Wait for one message. Raises EOFError at the end, and OSError for a message above maxlength bytes."""
        (size,) = struct.unpack("!i", self._read_exactly(4))
        if size < 0 or (maxlength is not None and size > maxlength):
            raise OSError("bad message length")
        return self._read_exactly(size)

    def _read_exactly(self, size: int) -> bytes:
        chunks: list[bytes] = []
        while size:
            if not (chunk := self._socket.recv(min(size, 1 << 20))):
                raise EOFError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def poll(self) -> bool:
        """Return whether there is something to read, or the end."""
        return bool(wait([self], 0))

    def fileno(self) -> int:
        handle = self._socket.fileno()
        if handle < 0:
            raise OSError("the connection is closed")
        return handle

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    def close(self) -> None:
        """Close this end; more than once is harmless."""
        self._socket.close()
