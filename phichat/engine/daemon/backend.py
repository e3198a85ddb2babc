"""Backend that connects to a daemon with the model, and launches one where none runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from phichat.engine.backend import CancelToken, LoadEvent
from phichat.engine.daemon.client import DaemonClient, NoReply, send_control_request
from phichat.engine.daemon.registry import DaemonAddress
from phichat.engine.ipc import protocol
from phichat.engine.ipc.connection import EngineConnection
from phichat.engine.ipc.frames import wait
from phichat.engine.ipc.protocol import EngineReply, LoadedModelInfo, LoadProgress
from phichat.engine.process_backend import ProcessBackend, require_loaded
from phichat.errors import EngineCrashed
from phichat.events import ModelLoading, ModelReady

if TYPE_CHECKING:
    from phichat.engine.local import LocalBackend, StartProcess

_MAX_CONNECT_ATTEMPTS = 20
"""More than it takes when ten clients kill and launch daemons at once, and no endless loop."""

_LOAD_STALL_TIMEOUT_S = 120.0
"""Without progress: the process that launched the daemon may have been stopped."""

LocalBackendFactory = Callable[["StartProcess | None"], "LocalBackend"]
"""Makes the backend that plans and loads, given a way to start the engine process, None for a private one."""


class DaemonBackend(ProcessBackend):
    """One GGUF file in a daemon, which serves several clients and outlives them.

    Falls back to a private engine process where the daemon is too busy to answer, or its folder cannot be used.
    keep_alive: seconds that the daemon runs without clients. get_spin_count: for OpenMP in a daemon to launch.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        address: DaemonAddress,
        keep_alive: float,
        make_local: LocalBackendFactory,
        get_spin_count: Callable[[], int],
    ) -> None:
        super().__init__(name, path)
        self._address, self._keep_alive = address, keep_alive
        self._make_local, self._get_spin_count = make_local, get_spin_count
        self._client: DaemonClient | None = None
        self._fallback: LocalBackend | None = None

    @property
    def n_ctx(self) -> int:
        if self._fallback is not None:
            return self._fallback.n_ctx
        return require_loaded(self._client).loaded_model.model.n_ctx

    def _require_connection(self) -> EngineConnection:
        if self._fallback is not None:
            return self._fallback._require_connection()
        return require_loaded(self._client)

    def _on_disconnected(self) -> None:
        self._client = None
        if self._fallback is not None:
            self._fallback._on_disconnected()

    def _load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        if self._client is not None and self._client.is_alive:
            return
        if self._fallback is not None:
            yield from self._fallback.load(cancel)
            return
        self.close()
        started_at = monotonic()
        yield ModelLoading(self._name, 0.0)
        with contextlib.suppress(OSError):
            for _ in range(_MAX_CONNECT_ATTEMPTS):
                result = send_control_request(self._address, protocol.Connect(self._keep_alive), cancel)
                is_refused = result is NoReply.BUSY
                if result is NoReply.NOT_RUNNING:
                    yield from self._launch(cancel)
                elif not isinstance(result, NoReply):
                    is_refused = not (yield from self._connect_when_loaded(*result, started_at, cancel))
                if self._client is not None or result is NoReply.CANCELLED or cancel.is_set():
                    return
                if is_refused:
                    break
        self._fallback = self._make_local(None)
        yield from self._fallback.load(cancel)

    def _connect_when_loaded(
        self, connection: Any, reply: EngineReply, started_at: float, cancel: CancelToken
    ) -> Generator[LoadEvent, None, bool]:
        """Become a client as soon as the model is loaded; returns False where the daemon does not accept one.
        reply: the first one to a Connect."""
        changed_at = monotonic()
        try:
            while isinstance(reply, LoadProgress) and monotonic() - changed_at < _LOAD_STALL_TIMEOUT_S:
                yield ModelLoading(self._name, reply.fraction)
                previous = reply
                # No timeout: the process that launched the daemon ends a load that hangs.
                if connection not in wait([connection, cancel]):
                    return True
                reply = protocol.receive_reply(connection)
                if reply != previous:
                    changed_at = monotonic()
            if isinstance(reply, LoadedModelInfo):
                self._client = DaemonClient(connection, self._address, reply)
                # The client may know the same file by another name.
                model, load_s = replace(reply.model, name=self._name), monotonic() - started_at
                yield ModelReady(model, str(self.path), reply.n_ctx_train, load_s, reply.notices)
            return self._client is not None
        except (EOFError, OSError):  # the daemon died
            return True
        finally:
            if self._client is None:
                connection.close()

    def _launch(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """Launch a daemon, unless another process has done so meanwhile, and become its first client."""
        from phichat.engine.daemon.launcher import fingerprint_files, launch_if_absent

        model_files, program_files = fingerprint_files(self.path)
        if (launcher := launch_if_absent(self._address, self._get_spin_count(), cancel)) is None:
            return
        with contextlib.closing(launcher):
            local_backend = self._make_local(launcher.start_process)
            for event in local_backend.load(cancel):
                if isinstance(event, ModelReady):
                    local_backend.detach(event, model_files, program_files, cancel)
                    result = send_control_request(self._address, protocol.Connect(self._keep_alive), cancel)
                    if isinstance(result, NoReply) or not isinstance(result[1], LoadedModelInfo):
                        raise EngineCrashed("The engine ended right after it loaded the model", "Ask again")
                    self._client = DaemonClient(result[0], self._address, result[1])
                yield event

    def _request(self, request: protocol.Request, cancel: CancelToken) -> Iterator[EngineReply]:
        has_reply = False
        try:
            for reply in super()._request(request, cancel):
                has_reply = True
                yield reply
        except EngineCrashed:
            if has_reply or self._fallback is not None:
                raise
            # The daemon ended before the request: nothing is lost.
            for _ in self.load(cancel):
                pass
            if not cancel.is_set():
                yield from super()._request(request, cancel)

    def unload(self) -> None:
        if self._client is not None:
            self._client.release()
        self.close()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
        if self._fallback is not None:
            self._fallback.close()
        self._client = self._fallback = None
