"""An engine process as a daemon: it accepts later clients, and exits when it was unused for long enough."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from threading import Event, RLock, Thread
from time import monotonic, sleep
from typing import Any

from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.worker.clients import ClientRegistry
from phichat.storage.fingerprint import FileFingerprints, are_unchanged

_POLL_INTERVAL_S = 1.0
_IDLE_GRACE_S = 2.0  # the pause that two requests of one turn may have between them
_LOAD_REPORT_INTERVAL_S = 0.25
_HANDSHAKE_TIMEOUT_S = 5.0  # for a new client to send its first request
_CLEANUP_LOCK_TIMEOUT_S = 0.2
_MAX_LOG_BYTES = 1 << 16
_MIN_FREE_FRACTION, _MIN_FREE_BYTES = 0.05, 300_000_000
"""Available memory below which the daemon exits: a fraction of the total, or bytes if that is more."""


class DaemonServer:
    """Accepts processes of the same user, and decides when the engine process exits.

    clients: those that are served, the accepted ones added. shut_down: ends the process.
    listener: the file descriptor of a listening socket; None where a named pipe is made here.
    load_fraction: of the model's tensors, set by the main thread. is_detached: the launcher need not stay connected.
    """

    def __init__(
        self, clients: ClientRegistry, shut_down: Callable[[], None], address: DaemonAddress, listener: int | None
    ) -> None:
        self._clients, self._shut_down, self._address = clients, shut_down, address
        self.load_fraction, self.is_detached = 0.0, False
        self._accept: Callable[[], Any]
        if listener is None:  # a named pipe, whose key only this user can read
            self._accept = Listener(address.socket_path, authkey=address.key_path.read_bytes()).accept
        else:
            self._accept = partial(_accept_same_user, socket.socket(fileno=listener))
        self._own_socket_id = self._read_socket_id()
        self._ready = Event()
        self._model_info: protocol.LoadedModelInfo | None = None
        self._library_files: FileFingerprints = ()
        self._keep_alive_s, self._last_client_at = 0.0, monotonic()
        self._lock = RLock()  # a signal may find it taken by the thread that handles it
        self._is_exiting = False
        self._install_signal_handlers()
        Thread(target=self._accept_loop, daemon=True).start()

    def start(self, request: protocol.Detach) -> protocol.StillRunning:
        """Accept the clients that wait: the model is loaded, and the launcher may disconnect."""
        self.is_detached = True
        os.chdir(Path(os.sep).absolute())  # the folder that the launcher was in may be removed
        self._model_info, self._library_files = request.loaded_model, request.program_fingerprints
        self._last_client_at = monotonic()
        self._ready.set()
        Thread(target=self._lifetime_loop, daemon=True).start()
        return protocol.StillRunning()

    def shut_down_if_unused(self) -> protocol.StillRunning:
        """Exit at a client's request, unless other clients are connected."""
        with self._lock:
            if self._clients.count <= 1:
                self._clean_up_and_exit()
        return protocol.StillRunning()

    def _install_signal_handlers(self) -> None:
        if sys.platform == "win32":
            signal.signal(signal.SIGTERM, lambda *_: self._clean_up_and_exit())
            return
        # A handler runs in the main thread only, which may not wake up when another thread got the signal.
        signals = {signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)

        def wait_for_signal() -> None:
            signal.sigwait(signals)
            self._clean_up_and_exit()

        Thread(target=wait_for_signal, daemon=True).start()

    # Clients

    def _accept_loop(self) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError, AuthenticationError):
                Thread(target=self._handle_connection, args=(self._accept(),), daemon=True).start()

    def _handle_connection(self, connection: Any) -> None:
        with contextlib.suppress(EOFError, OSError, protocol.ProtocolError):
            if connection.poll(_HANDSHAKE_TIMEOUT_S) and self._handle_request(connection):
                return
        connection.close()

    def _handle_request(self, connection: Any) -> bool:
        """Answer the first request of a connection; return True if it is a client from now on."""
        match protocol.receive_control_request(connection):
            case protocol.Connect(keep_alive=keep_alive):
                while not self._ready.wait(_LOAD_REPORT_INTERVAL_S):
                    protocol.send(connection, protocol.LoadProgress(self.load_fraction))
                return self._accept_client(connection, keep_alive)
            case protocol.Shutdown(force=force):
                with self._lock:
                    if force or (self._ready.is_set() and not self._clients.count):
                        self._clean_up_and_exit()
                if self._is_exiting:
                    Event().wait()  # the end of the connection is the answer
                protocol.send(connection, protocol.StillRunning())
            case protocol.GetStatus():
                protocol.send(connection, self._build_status())
        return False

    def _accept_client(self, connection: Any, keep_alive_s: float) -> bool:
        assert self._model_info is not None
        is_current = are_unchanged(self._model_info.fingerprints)
        with self._lock:
            if not is_current and not self._clients.count:  # the files have changed since they were loaded
                self._clean_up_and_exit()
            if self._is_exiting:
                return False
            if not is_current:
                protocol.send(connection, self._build_status())
                return False
            self._keep_alive_s = max(self._keep_alive_s, keep_alive_s)
            self._last_client_at = monotonic()
            protocol.send(connection, self._model_info)
            self._clients.add(connection)
        return True

    def _build_status(self) -> protocol.EngineStatus:
        count = self._clients.count
        expires_in_s = None if count else max(0.0, self._keep_alive_s - (monotonic() - self._last_client_at))
        return protocol.EngineStatus(os.getpid(), self._model_info, count, self._clients.idle_seconds, expires_in_s)

    # Lifetime

    def _lifetime_loop(self) -> None:
        while True:
            sleep(_POLL_INTERVAL_S)
            with contextlib.suppress(OSError):
                if os.fstat(2).st_size > _MAX_LOG_BYTES:
                    os.ftruncate(2, 0)
            if self._clients.count:
                self._last_client_at = monotonic()
            if self._should_exit():
                with self._lock:
                    if self._should_exit():  # no client has connected meanwhile
                        self._clean_up_and_exit()

    def _should_exit(self) -> bool:
        if not self._clients.count:
            unused_s = monotonic() - self._last_client_at
            if unused_s >= self._keep_alive_s or self._read_socket_id() != self._own_socket_id:
                return True
        if self._clients.idle_seconds < _IDLE_GRACE_S:
            return False
        assert self._model_info is not None
        return not are_unchanged((*self._model_info.fingerprints, *self._library_files)) or _is_memory_low()

    def _read_socket_id(self) -> tuple[int, int]:
        """Device and inode of the socket at the address; zeros where its folder is gone, as after a logout."""
        try:
            status = Path(self._address.key_path if sys.platform == "win32" else self._address.socket_path).stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _clean_up_and_exit(self) -> None:
        """Remove this engine's files and end the process."""
        with self._lock:
            if self._is_exiting:
                return
            self._is_exiting = True
            with contextlib.suppress(OSError), self._address.lock(timeout_s=_CLEANUP_LOCK_TIMEOUT_S) as has_lock:
                # While another process holds the lock it opens a new socket there, which is its own.
                if has_lock and self._read_socket_id() == self._own_socket_id:
                    self._address.remove_files()
            self._shut_down()


def _accept_same_user(listener: socket.socket) -> Connection:
    """Accept a connection. Raises OSError when it is of another user."""
    with listener.accept()[0] as accepted:
        if not _is_same_user(accepted):
            raise PermissionError("a client of another user")
        return Connection(accepted.detach())


def _is_same_user(accepted: socket.socket) -> bool:
    """Return True if the kernel says that the other process is this user's, whatever the file's permissions."""
    if sys.platform == "linux":
        _, uid, _ = struct.unpack("iII", accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    elif sys.platform == "win32":
        return False
    else:
        # struct xucred of macOS and the BSDs begins with a version and the user.
        _, uid = struct.unpack("II", accepted.getsockopt(0, 1, 76)[:8])
    return bool(uid == os.geteuid())


def _is_memory_low() -> bool:
    from phichat.engine.planner.hardware import probe_memory

    memory = probe_memory()
    return memory.available < max(memory.total * _MIN_FREE_FRACTION, _MIN_FREE_BYTES)
