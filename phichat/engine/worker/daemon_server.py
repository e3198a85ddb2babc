"""The door of an engine that stays: who comes in, and when it leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, RLock, Thread
from time import monotonic, sleep
from typing import Any, Protocol

from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import Detach, EngineStatus, LoadedModelInfo, LoadProgress, StillRunning
from phichat.storage.fingerprint import FileFingerprints, are_unchanged

_POLL_INTERVAL_S = 1.0
_IDLE_GRACE_S = 2.0
"""Between two requests of one turn there may be so long a pause."""
_LOAD_REPORT_INTERVAL_S = 0.25
_HANDSHAKE_TIMEOUT_S = 5.0
"""For who comes in to say what they want."""
_CLEANUP_LOCK_TIMEOUT_S = 0.2
_MAX_LOG_BYTES = 1 << 16
_MIN_FREE_FRACTION, _MIN_FREE_BYTES = 0.05, 300_000_000
"""Less memory than this is short."""


class EngineHost(Protocol):
    """The worker, as its door sees it."""

    @property
    def client_count(self) -> int:
        """That are connected."""
        ...

    @property
    def idle_seconds(self) -> float:
        """Seconds since it had something to do."""
        ...

    @property
    def load_fraction(self) -> float:
        """The fraction of the model's tensors."""
        ...

    def add_daemon_client(self, connection: protocol.Connection) -> None:
        """Serve one who knows all there is to know."""
        ...

    def shut_down(self) -> None:
        """End the process, now or as soon as what is worth it is kept."""
        ...


class DaemonServer:
    """One way in, for processes of the same user.

    listener: the file descriptor of a socket that listens; None where it is to be made here.
    """

    def __init__(self, host: EngineHost, address: DaemonAddress, listener: int | None) -> None:
        self._host, self._address = host, address
        self._accept = (
            _pipe_acceptor(address) if sys.platform == "win32" or listener is None else _unix_acceptor(listener)
        )
        self._own_socket_id = self._read_socket_id()
        self._ready = Event()
        self._model_info: LoadedModelInfo | None = None
        self._library_files: FileFingerprints = ()
        self._keep_alive_s = 0.0
        self._last_client_at = monotonic()
        self._lock = RLock()  # a signal may find it taken by the thread that handles it
        self._is_exiting = False
        self._install_signal_handlers()
        Thread(target=self._accept_loop, daemon=True).start()

    def start(self, request: Detach) -> StillRunning:
        """The model is loaded: whoever waits at the door may come in."""
        os.chdir(Path(os.sep).absolute())  # whatever folder the starter was in may be removed
        self._model_info, self._library_files = request.loaded_model, request.program_fingerprints
        self._last_client_at = monotonic()
        self._ready.set()
        Thread(target=self._lifetime_loop, daemon=True).start()
        return StillRunning()

    def shut_down_if_unused(self, client_count: int) -> StillRunning:
        """A client wants the engine to leave; it does unless others are there."""
        with self._lock:
            if self._host.client_count <= client_count:
                self._clean_up_and_exit()
        return StillRunning()

    def _install_signal_handlers(self) -> None:
        if sys.platform == "win32":
            signal.signal(signal.SIGTERM, lambda *_: self._exit_on_signal())
            return
        # A handler runs in the main thread only, which may not wake up from its wait when another thread got the
        # signal.
        signals = {signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)

        def wait_for_signal() -> None:
            signal.sigwait(signals)
            self._exit_on_signal()

        Thread(target=wait_for_signal, daemon=True).start()

    # Coming in

    def _accept_loop(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection = self._accept()
                if connection is not None:
                    Thread(target=self._handle_connection, args=(connection,), daemon=True).start()

    def _handle_connection(self, connection: Any) -> None:
        try:
            if connection.poll(_HANDSHAKE_TIMEOUT_S):
                request = protocol.receive_control_request(connection)
                if self._handle_request(connection, request):
                    return
        except (EOFError, OSError, protocol.ProtocolError):
            pass
        connection.close()

    def _handle_request(self, connection: Any, request: object) -> bool:
        """Whether it is a client from now on."""
        match request:
            case protocol.Connect():
                while not self._ready.wait(_LOAD_REPORT_INTERVAL_S):
                    protocol.send(connection, LoadProgress(self._host.load_fraction))
                return self._accept_client(connection, request.keep_alive)
            case protocol.Shutdown():
                with self._lock:
                    if request.force or (self._ready.is_set() and not self._host.client_count):
                        self._clean_up_and_exit()
                if self._is_exiting:
                    Event().wait()  # the end of the connection says it
                protocol.send(connection, StillRunning())
            case protocol.GetStatus():
                protocol.send(connection, self._build_status())
        return False

    def _accept_client(self, connection: Any, keep_alive_s: float) -> bool:
        assert self._model_info is not None
        is_current = are_unchanged(self._model_info.fingerprints)
        with self._lock:
            if self._is_exiting:
                return False
            if not is_current:
                # What is loaded is not what was asked for.
                if self._host.client_count:
                    protocol.send(connection, self._build_status())
                else:
                    self._clean_up_and_exit()
                return False
            self._keep_alive_s = max(self._keep_alive_s, keep_alive_s)
            self._last_client_at = monotonic()
            protocol.send(connection, self._model_info)
            self._host.add_daemon_client(connection)
        return True

    def _build_status(self) -> EngineStatus:
        clients = self._host.client_count
        remaining_s = self._keep_alive_s - (monotonic() - self._last_client_at)
        return EngineStatus(
            os.getpid(), self._model_info, clients, self._host.idle_seconds, None if clients else max(0.0, remaining_s)
        )

    # Leaving

    def _lifetime_loop(self) -> None:
        while True:
            sleep(_POLL_INTERVAL_S)
            with contextlib.suppress(OSError):
                if os.fstat(2).st_size > _MAX_LOG_BYTES:
                    os.ftruncate(2, 0)
            if self._host.client_count:
                self._last_client_at = monotonic()
            if self._should_exit():
                with self._lock:
                    # Somebody may have come in meanwhile.
                    if self._should_exit():
                        self._clean_up_and_exit()

    def _should_exit(self) -> bool:
        if not self._host.client_count:
            unused_s = monotonic() - self._last_client_at
            if unused_s >= self._keep_alive_s or self._read_socket_id() != self._own_socket_id:
                return True
        if self._host.idle_seconds < _IDLE_GRACE_S:
            return False
        assert self._model_info is not None
        return not are_unchanged((*self._model_info.fingerprints, *self._library_files)) or _is_memory_low()

    def _read_socket_id(self) -> tuple[int, int]:
        """Which socket is at the address; none where it and its folder are gone, as after a logout."""
        try:
            status = Path(self._address.key_path if sys.platform == "win32" else self._address.socket_path).stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _exit_on_signal(self) -> None:
        with self._lock:
            self._clean_up_and_exit()

    def _clean_up_and_exit(self) -> None:
        """Clear away what is this engine's, and be gone."""
        if self._is_exiting:
            return
        self._is_exiting = True
        with contextlib.suppress(OSError), self._address.lock(timeout_s=_CLEANUP_LOCK_TIMEOUT_S) as has_lock:
            # Without the lock somebody is opening a new door: theirs to clear away.
            if has_lock and self._read_socket_id() == self._own_socket_id:
                self._address.remove_files()
        self._host.shut_down()


def _unix_acceptor(handle: int) -> Callable[[], Any]:
    """Takes the next connection of this user's; None for one of somebody else's."""
    listener = socket.socket(fileno=handle)

    def accept_connection() -> Any:
        accepted, _ = listener.accept()
        if _is_same_user(accepted):
            return Connection(accepted.detach())
        accepted.close()
        return None

    return accept_connection


def _pipe_acceptor(address: DaemonAddress) -> Callable[[], Any]:
    """The same where connections are pipes: who knows the key is of this user."""
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Listener

    listener = Listener(address.socket_path, authkey=address.key_path.read_bytes())

    def accept_connection() -> Any:
        try:
            return listener.accept()
        except (AuthenticationError, EOFError):
            return None

    return accept_connection


def _is_same_user(accepted: socket.socket) -> bool:
    """Whether the process at the other side is this user's: the kernel tells, whatever the files allow."""
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
