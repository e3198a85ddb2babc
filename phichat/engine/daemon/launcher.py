"""Launch of a daemon: its socket listens before its process runs, so that further clients wait there at once."""

from __future__ import annotations

import contextlib
import secrets
import socket
import sys
import time
from pathlib import Path

from phichat.cancel import CancelToken
from phichat.engine.daemon.client import is_listening
from phichat.engine.daemon.registry import DaemonAddress, list_program_files
from phichat.engine.ipc.connection import EngineTimeouts
from phichat.engine.ipc.process import EngineProcess
from phichat.gguf.split import list_split_paths
from phichat.storage.fingerprint import FileFingerprints, compute_fingerprint


class DaemonLauncher:
    """Listening socket that is passed on to one engine process after another until one has loaded the model.
    Made while the address is locked. Raises OSError, and EngineCrashed when no process can be started."""

    def __init__(self, address: DaemonAddress, spin_count: int) -> None:
        self._address = address
        address.remove_files()
        self._listener = None if sys.platform == "win32" else _bind(address)
        self._first_process: EngineProcess | None = None
        try:
            if self._listener is None:
                address.key_path.touch(mode=0o600)
                address.key_path.write_bytes(secrets.token_bytes(32))
            self._first_process = self._spawn(EngineTimeouts(), spin_count)
        except BaseException:
            self.close()
            raise

    def start_process(self, timeouts: EngineTimeouts, spin_count: int) -> EngineProcess:
        """Return an engine process with the socket: the one that already starts up, else a new one."""
        process, self._first_process = self._first_process, None
        return process or self._spawn(timeouts, spin_count)

    def _spawn(self, timeouts: EngineTimeouts, spin_count: int) -> EngineProcess:
        listener_fd = self._listener.fileno() if self._listener else None
        process = EngineProcess(timeouts, daemon_address=self._address, listener_fd=listener_fd, spin_count=spin_count)
        if self._listener is None:
            deadline = time.monotonic() + timeouts.startup_s
            while process.is_alive and time.monotonic() < deadline:
                with contextlib.suppress(OSError):
                    if is_listening(self._address):
                        break
                time.sleep(0.02)
        return process

    def close(self) -> None:
        """Stop listening in this process; an engine process that has loaded the model goes on."""
        if self._first_process is not None:
            self._first_process.kill()
        if self._listener is not None:
            self._listener.close()


def launch_if_absent(address: DaemonAddress, spin_count: int, cancel: CancelToken) -> DaemonLauncher | None:
    """Start an engine process for a daemon; None where one listens there already, or when cancelled.
    Raises OSError where the address cannot be used, and EngineCrashed."""
    with address.lock(cancel) as is_locked:
        if is_locked and not is_listening(address):
            return DaemonLauncher(address, spin_count)
    return None


def _bind(address: DaemonAddress) -> socket.socket:
    with contextlib.ExitStack() as cleanup:
        listener = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(address.socket_path)
        Path(address.socket_path).chmod(0o600)
        listener.listen(128)
        cleanup.pop_all()
    return listener


def fingerprint_files(model: Path) -> tuple[FileFingerprints, FileFingerprints]:
    """Return the fingerprints of a model's files, and of those that stand for phichat and llama-cpp-python."""
    model_files = tuple((str(part), compute_fingerprint(part)) for part in list_split_paths(model.resolve()))
    return model_files, tuple((file, compute_fingerprint(file)) for file in list_program_files())
