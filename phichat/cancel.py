"""Cancellation token that a wait for the engine can include."""

import contextlib
import socket


class CancelToken:
    """Set once, from any thread or signal handler, to end a turn.

    Like `threading.Event`, but also a waitable: it wakes a wait for the engine at once, which needs no timer for
    it. On a machine whose every core computes, each wake-up costs the engine speed.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._read_socket, self._write_socket = socket.socketpair()
        self._write_socket.settimeout(0)

    def set(self) -> None:
        """Request the cancellation; more than once is harmless."""
        self._is_set = True
        with contextlib.suppress(OSError):  # full: it is readable then
            self._write_socket.send(b"\0")

    def is_set(self) -> bool:
        return self._is_set

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the token is set, and stays so."""
        return self._read_socket.fileno()

    def __del__(self) -> None:
        self._read_socket.close()
        self._write_socket.close()
