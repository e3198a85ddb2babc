"""The engines of this home that stay: what they are at, and asking them to leave."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from phichat.cancel import CancelToken
from phichat.engine.daemon.handshake import NoReply, open_connection, send_control_request
from phichat.engine.daemon.process_health import find_process, kill, wait_for_exit
from phichat.engine.daemon.registry import DaemonAddress, DaemonRegistry
from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import EngineStatus, LoadedModelInfo

_SAVE_TIMEOUT_S = 4.0
"""Longer than an engine takes, or is given, to keep its states."""


@dataclass(frozen=True, slots=True)
class RunningEngine:
    """An engine that is there. state: None where it is too busy to answer."""

    address: DaemonAddress
    pid: int
    status: EngineStatus | None

    @property
    def loaded_model(self) -> LoadedModelInfo | None:
        """What is known of its model; None while it loads, too."""
        return self.status.loaded_model if self.status else None

    @property
    def model_name(self) -> str:
        """The name of its model, "" when it is not known."""
        return self.loaded_model.model.name if self.loaded_model else ""


def list_running(registry: DaemonRegistry) -> Iterator[RunningEngine]:
    """Those that are there now. One that is stuck is killed; what dead ones have left is cleared away."""
    for address in registry.list_addresses():
        with contextlib.suppress(OSError):
            result = send_control_request(address, protocol.GetStatus(), CancelToken())
            if not isinstance(result, NoReply):
                connection, status = result
                connection.close()
                if isinstance(status, EngineStatus):
                    yield RunningEngine(address, status.pid, status)
            elif result is NoReply.NOT_RUNNING:
                _remove_dead_files(address)
            elif process := find_process(address):
                yield RunningEngine(address, process.pid, None)


def _remove_dead_files(address: DaemonAddress) -> None:
    with address.lock(timeout_s=0) as has_lock:
        if has_lock and open_connection(address) is None:
            address.remove_files()


def stop_engine(address: DaemonAddress) -> None:
    """Whatever it has to do, the engine there ends."""
    if not _request_shutdown(address, force=True):
        kill(address)


def stop_idle(registry: DaemonRegistry, exclude: DaemonAddress | None) -> bool:
    """Ask the engines that nobody uses to leave, all but that one; whether any did."""
    has_stopped = False
    for engine in list_running(registry):
        if engine.address != exclude and engine.status and engine.status.loaded_model and not engine.status.clients:
            has_stopped = _request_shutdown(engine.address, force=False) or has_stopped
    return has_stopped


def _request_shutdown(address: DaemonAddress, *, force: bool) -> bool:
    """Whether the engine there leaves: its connections end when its memory is free."""
    try:
        result = send_control_request(address, protocol.Shutdown(force), CancelToken())
    except OSError:
        return False
    if not isinstance(result, NoReply):
        result[0].close()
        return False
    # One that keeps its states first does not answer meanwhile.
    return result is NoReply.NOT_RUNNING or wait_for_exit(address, _SAVE_TIMEOUT_S)
