"""Running daemons: list and stop them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from phichat.cancel import CancelToken
from phichat.engine.daemon.client import NoReply, is_listening, send_control_request
from phichat.engine.daemon.process_health import find_process, kill, wait_for_exit
from phichat.engine.daemon.registry import DaemonAddress, DaemonRegistry
from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import EngineStatus, LoadedModelInfo

_SAVE_TIMEOUT_S = 4.0
"""Longer than a daemon takes, or is given, to save its KV caches."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """A daemon that runs. status: None where it is too busy to answer."""

    address: DaemonAddress
    pid: int
    status: EngineStatus | None

    @property
    def loaded_model(self) -> LoadedModelInfo | None:
        """Its model; None while it loads, or where it is unknown."""
        return self.status.loaded_model if self.status else None

    @property
    def model_name(self) -> str:
        """Name of its model, "" where that is unknown."""
        return self.loaded_model.model.name if self.loaded_model else ""


def list_running(registry: DaemonRegistry) -> Iterator[RunningEngine]:
    """Yield the daemons that run. Kills those that hang, and removes the files of dead ones."""
    for address in registry.list_addresses():
        with contextlib.suppress(OSError):
            result = send_control_request(address, protocol.GetStatus(), CancelToken())
            if not isinstance(result, NoReply):
                connection, status = result
                connection.close()
                if isinstance(status, EngineStatus):
                    yield RunningEngine(address, status.pid, status)
            elif result is NoReply.NOT_RUNNING:
                with address.lock(timeout_s=0) as is_locked:
                    if is_locked and not is_listening(address):
                        address.remove_files()
            elif process := find_process(address):
                yield RunningEngine(address, process.pid, None)


def stop_engine(address: DaemonAddress) -> None:
    """End a daemon, also while it works for clients."""
    if not _request_shutdown(address, force=True):
        kill(address)


def stop_idle(registry: DaemonRegistry, exclude: DaemonAddress | None) -> bool:
    """Ask the daemons without clients to exit, all but one, and return whether any did."""
    stopped = [
        _request_shutdown(engine.address, force=False)
        for engine in list_running(registry)
        if engine.address != exclude and engine.status and engine.loaded_model and not engine.status.clients
    ]
    return any(stopped)


def _request_shutdown(address: DaemonAddress, *, force: bool) -> bool:
    """Ask a daemon to exit, and return whether it did. Its connections end after its memory is free."""
    try:
        result = send_control_request(address, protocol.Shutdown(force), CancelToken())
    except OSError:
        return False
    if not isinstance(result, NoReply):
        result[0].close()
        return False
    # A daemon that saves its KV caches first does not answer meanwhile.
    return result is NoReply.NOT_RUNNING or wait_for_exit(address, _SAVE_TIMEOUT_S)
