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

from phichat.engine import protocol
from phichat.engine.protocol import Card, Loading, State, Stay, Staying
from phichat.engine.resident.address import Address
from phichat.engine.resident.stamps import are_current

_LOOK_S = 1.0
_QUIET_S = 2.0
"""Between two requests of one turn there may be so long a pause."""
_LOADING_S = 0.25
_FIRST_WORD_S = 5.0
"""For who comes in to say what they want."""
_CLEARING_S = 0.2
_LOG_BYTES = 1 << 16
_SHORT_SHARE, _SHORT_BYTES = 0.05, 300_000_000
"""Less memory than this is short."""


class Host(Protocol):
    """The worker, as its door sees it."""

    @property
    def clients(self) -> int:
        """That are connected."""
        ...

    @property
    def quiet_s(self) -> float:
        """Seconds since it had something to do."""
        ...

    @property
    def loaded(self) -> float:
        """The fraction of the model's tensors."""
        ...

    def admit(self, connection: protocol.Connection) -> None:
        """Serve one who knows all there is to know."""
        ...

    def leave(self) -> None:
        """End the process, now or as soon as what is worth it is kept."""
        ...


class Doors:
    """One way in, for processes of the same user.

    listener: the file descriptor of a socket that listens; None where it is to be made here.
    """

    def __init__(self, host: Host, address: Address, listener: int | None) -> None:
        self._host, self._address = host, address
        self._next = _pipes(address) if sys.platform == "win32" or listener is None else _sockets(listener)
        self._identity = self._found()
        self._open = Event()
        self._card: Card | None = None
        self._library: tuple[tuple[str, str], ...] = ()
        self._keep_alive = 0.0
        self._seen_at = monotonic()
        self._gate = RLock()  # a signal may find it taken by the thread that handles it
        self._ends = False
        self._heed_signals()
        Thread(target=self._let_in, daemon=True).start()

    def stay(self, request: Stay) -> Staying:
        """The model is loaded: whoever waits at the door may come in."""
        os.chdir(Path(os.sep).absolute())  # whatever folder the starter was in may be removed
        self._card, self._library = request.card, request.library
        self._seen_at = monotonic()
        self._open.set()
        Thread(target=self._watch, daemon=True).start()
        return Staying()

    def leave_to(self, client_count: int) -> Staying:
        """A client wants the engine to leave; it does unless others are there."""
        with self._gate:
            if self._host.clients <= client_count:
                self._end()
        return Staying()

    def _heed_signals(self) -> None:
        if sys.platform == "win32":
            signal.signal(signal.SIGTERM, lambda *_: self._leave())
            return
        # A handler runs in the main thread only, which may not wake up from its wait when another thread got the
        # signal.
        signals = {signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)

        def wait() -> None:
            signal.sigwait(signals)
            self._leave()

        Thread(target=wait, daemon=True).start()

    # Coming in

    def _let_in(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                connection = self._next()
                if connection is not None:
                    Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: Any) -> None:
        try:
            if connection.poll(_FIRST_WORD_S) and self._answer(connection, protocol.receive(connection)):
                return
        except (EOFError, OSError, ValueError, KeyError, TypeError):
            pass
        connection.close()

    def _answer(self, connection: Any, request: object) -> bool:
        """Whether it is a client from now on."""
        match request:
            case protocol.Visit():
                while not self._open.wait(_LOADING_S):
                    protocol.send(connection, Loading(self._host.loaded))
                return self._admit(connection, request.keep_alive)
            case protocol.Leave():
                with self._gate:
                    if request.at_once or (self._open.is_set() and not self._host.clients):
                        self._end()
                if self._ends:
                    Event().wait()  # the end of the connection says it
                protocol.send(connection, Staying())
            case protocol.Inquiry():
                protocol.send(connection, self._state())
        return False

    def _admit(self, connection: Any, keep_alive: float) -> bool:
        assert self._card is not None
        current = are_current(self._card.files)
        with self._gate:
            if self._ends:
                return False
            if not current:
                # What is loaded is not what was asked for.
                if self._host.clients:
                    protocol.send(connection, self._state())
                else:
                    self._end()
                return False
            self._keep_alive = max(self._keep_alive, keep_alive)
            self._seen_at = monotonic()
            protocol.send(connection, self._card)
            self._host.admit(connection)
        return True

    def _state(self) -> State:
        clients = self._host.clients
        left = self._keep_alive - (monotonic() - self._seen_at)
        return State(os.getpid(), self._card, clients, self._host.quiet_s, None if clients else max(0.0, left))

    # Leaving

    def _watch(self) -> None:
        while True:
            sleep(_LOOK_S)
            with contextlib.suppress(OSError):
                if os.fstat(2).st_size > _LOG_BYTES:
                    os.ftruncate(2, 0)
            if self._host.clients:
                self._seen_at = monotonic()
            if self._is_due():
                with self._gate:
                    # Somebody may have come in meanwhile.
                    if self._is_due():
                        self._end()

    def _is_due(self) -> bool:
        if not self._host.clients:
            absent_s = monotonic() - self._seen_at
            if absent_s >= self._keep_alive or self._found() != self._identity:
                return True
        if self._host.quiet_s < _QUIET_S:
            return False
        assert self._card is not None
        return not are_current((*self._card.files, *self._library)) or _memory_is_short()

    def _found(self) -> tuple[int, int]:
        """Which socket is at the address; none where it and its folder are gone, as after a logout."""
        try:
            status = Path(self._address.key if sys.platform == "win32" else self._address.socket).stat()
        except OSError:
            return 0, 0
        return status.st_dev, status.st_ino

    def _leave(self) -> None:
        with self._gate:
            self._end()

    def _end(self) -> None:
        """Clear away what is this engine's, and be gone."""
        if self._ends:
            return
        self._ends = True
        with contextlib.suppress(OSError), self._address.locked(patience_s=_CLEARING_S) as alone:
            # Without the lock somebody is opening a new door: theirs to clear away.
            if alone and self._found() == self._identity:
                self._address.clear()
        self._host.leave()


def _sockets(handle: int) -> Callable[[], Any]:
    """Takes the next connection of this user's; None for one of somebody else's."""
    listener = socket.socket(fileno=handle)

    def take() -> Any:
        taken, _ = listener.accept()
        if _is_own(taken):
            return Connection(taken.detach())
        taken.close()
        return None

    return take


def _pipes(address: Address) -> Callable[[], Any]:
    """The same where connections are pipes: who knows the key is of this user."""
    from multiprocessing import AuthenticationError
    from multiprocessing.connection import Listener

    listener = Listener(address.socket, authkey=address.key.read_bytes())

    def take() -> Any:
        try:
            return listener.accept()
        except (AuthenticationError, EOFError):
            return None

    return take


def _is_own(taken: socket.socket) -> bool:
    """Whether the process at the other side is this user's: the kernel tells, whatever the files allow."""
    if sys.platform == "linux":
        _, uid, _ = struct.unpack("iII", taken.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    elif sys.platform == "win32":
        return False
    else:
        # struct xucred of macOS and the BSDs begins with a version and the user.
        _, uid = struct.unpack("II", taken.getsockopt(0, 1, 76)[:8])
    return bool(uid == os.geteuid())


def _memory_is_short() -> bool:
    from phichat.engine.hardware import probe_memory

    memory = probe_memory()
    return memory.available < max(memory.total * _SHORT_SHARE, _SHORT_BYTES)
