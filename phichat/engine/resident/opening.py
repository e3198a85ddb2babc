"""Opening a door: a socket that listens before its engine runs, so that whoever comes next waits there."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
from pathlib import Path

from phichat.engine.cancel import Cancel
from phichat.engine.link import Deadlines
from phichat.engine.process import WORKER, Door, EngineProcess
from phichat.engine.resident.address import Address, program_files
from phichat.engine.resident.knocking import connected
from phichat.engine.resident.stamps import stamp
from phichat.gguf_names import split_parts

_BACKLOG = 128
_RETRY_S = 0.02


class Opening:
    """A door that this process has opened, for one engine after another until the model is loaded.

    Made with the address locked. Raises OSError, and EngineCrashed when no process can be started.
    """

    def __init__(self, address: Address, deadlines: Deadlines, spin_count: int) -> None:
        self._address = address
        address.clear()
        self._listener = None if sys.platform == "win32" else _listening(address)
        self._first: EngineProcess | None = None
        try:
            if self._listener is None:
                address.key.touch(mode=0o600)
                address.key.write_bytes(secrets.token_bytes(32))
            self._first = self._started(deadlines, spin_count)
        except BaseException:
            self.close()
            raise

    def start(self, deadlines: Deadlines, spin_count: int) -> EngineProcess:
        """An engine process behind this door."""
        first, self._first = self._first, None
        return first or self._started(deadlines, spin_count)

    def _started(self, deadlines: Deadlines, spin_count: int) -> EngineProcess:
        handle = self._listener.fileno() if self._listener else None
        process = EngineProcess(deadlines, WORKER, Door(self._address, handle), spin_count)
        if self._listener is None:
            until = time.monotonic() + deadlines.start
            while process.alive and time.monotonic() < until:
                with contextlib.suppress(OSError):
                    if there := connected(self._address):
                        there.close()
                        break
                time.sleep(_RETRY_S)
        return process

    def close(self) -> None:
        """This process does not listen there any more; its engine may."""
        if self._first is not None:
            self._first.kill()
        if self._listener is not None:
            self._listener.close()


def opened(address: Address, deadlines: Deadlines, spin_count: int, cancel: Cancel) -> Opening | None:
    """A door at the address, and an engine behind it; None where there is one already, or when cancelled.

    Raises OSError where there can be none, and EngineCrashed.
    """
    with address.locked(cancel) as alone:
        if not alone:
            return None
        try:
            there = connected(address)
        except TimeoutError:
            return None
        if there is not None:
            there.close()
            return None
        return Opening(address, deadlines, spin_count)


def _listening(address: Address) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(address.socket)
        Path(address.socket).chmod(0o600)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def model_files(path: Path) -> tuple[tuple[str, str], ...]:
    """The files of a model as they are now."""
    return tuple((str(part), stamp(part)) for part in split_parts(path.resolve()))


def program() -> tuple[tuple[str, str], ...]:
    """The files that an engine is made of, as they are now."""
    return tuple((file, stamp(file)) for file in program_files())
