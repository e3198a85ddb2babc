"""Connections to an engine through a socket, without what `multiprocessing` brings along for its other uses.

The framing is that of `multiprocessing.connection`, which is at the other end: the length in four bytes, then the
message. Importing that module takes longer than asking an engine that is there.
"""

from __future__ import annotations

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
        """Those that can be read, or whose other side is gone; waits so many seconds for one. Raises OSError."""
        poll = select.poll()
        for waitable in objects:
            poll.register(waitable, select.POLLIN)
        ready = {handle for handle, _ in poll.poll(None if timeout is None else math.ceil(timeout * 1000))}
        return [each for each in objects if each.fileno() in ready]


class SocketConnection:
    """One end of a stream socket, which blocks. Its methods raise OSError, also once it is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send_bytes(self, buf: bytes) -> None:
        """One message."""
        self._socket.sendall(struct.pack("!i", len(buf)) + buf)

    def recv_bytes(self) -> bytes:
        """One message, waiting for it. Raises EOFError when there will be none."""
        (size,) = struct.unpack("!i", self._read_exactly(4))
        return self._read_exactly(size)

    def _read_exactly(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = self._socket.recv(size)
            if not chunk:
                raise EOFError
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def poll(self) -> bool:
        """Whether there is something to read, or the end."""
        return bool(wait([self], 0))

    def fileno(self) -> int:
        """The socket's."""
        handle = self._socket.fileno()
        if handle < 0:
            raise OSError("the connection is closed")
        return handle

    @property
    def closed(self) -> bool:
        """Whether this end is."""
        return self._socket.fileno() < 0

    def close(self) -> None:
        """More than once is once."""
        self._socket.close()
