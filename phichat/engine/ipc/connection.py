"""Connection to an engine process: requests, replies with deadlines, and the errors for its end."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.ipc import protocol
from phichat.engine.ipc.frames import wait
from phichat.engine.ipc.protocol import EngineReply, FinalReply, Request
from phichat.errors import EngineCrashed, EngineTimedOut

_MIN_DISK_BYTES_PER_S = 100_000_000
"""The slowest disk that a model is expected on."""

_MIN_TOKENIZER_BYTES_PER_S = 500_000
"""The slowest that a tokenizer is expected to be, on one endless word; it reports no progress meanwhile."""

_FAULT_EXIT_CODES = frozenset(
    {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE")}
    | {0xC0000005, 0xC000001D, 0xC0000094}  # Windows: access violation, illegal instruction, division
)
"""Exit codes of a process to which the CPU refused an instruction or an address."""

_LOG_TAIL_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class EngineTimeouts:
    """Seconds without any message from the engine process after which it counts as hung.
    stall_s: while it loads or evaluates. cancel_s: between a cancel request and the end of the answer."""

    startup_s: float = 30.0
    template_s: float = 8.0
    stall_s: float = 12.0
    cancel_s: float = 0.5

    def for_model(self, model_bytes: int) -> EngineTimeouts:
        """Add the time that a slow disk needs to read a model of this size, as loading and evaluating may have to."""
        return replace(self, stall_s=self.stall_s + model_bytes / _MIN_DISK_BYTES_PER_S)


class EnginePhase(StrEnum):
    """Activity of an engine process by its last message, as error messages name it."""

    STARTING = "starting"
    LOADING = "loading the model"
    WARMING_UP = "trying the model on this CPU"
    RENDERING = "rendering the model's chat template"
    PREFILLING = "reading the prompt"
    GENERATING = "generating"
    MEASURING = "measuring"


_PHASES: dict[type, EnginePhase] = {
    protocol.LoadModel: EnginePhase.LOADING,
    **dict.fromkeys((protocol.RunBenchmark, protocol.TuneThreads, protocol.MeasureBatchCosts), EnginePhase.MEASURING),
    protocol.RenderingTemplate: EnginePhase.RENDERING,
    protocol.PrefillProgress: EnginePhase.PREFILLING,
    protocol.OutputDelta: EnginePhase.GENERATING,
    protocol.SampleOutput: EnginePhase.GENERATING,
    protocol.WarmingUp: EnginePhase.WARMING_UP,
    protocol.LoadProgress: EnginePhase.LOADING,
}
"""Phase that begins with a message of each type."""


class EngineConnection(ABC):
    """Connection to an engine process."""

    def __init__(self, timeouts: EngineTimeouts, connection: Any) -> None:
        self.timeouts, self._connection, self._phase = timeouts, connection, EnginePhase.STARTING

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """True while requests can be sent."""

    @abstractmethod
    def abandon(self) -> None:
        """Give up a request whose replies will not be read."""

    @abstractmethod
    def kill(self) -> None:
        """End an engine process that hangs."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection; no request will follow."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Make a blocked send fail; called from another thread."""

    @abstractmethod
    def _reap(self) -> int | None:
        """Close a connection that ended, and return the exit code of its process where it is known."""

    @abstractmethod
    def _read_stderr(self) -> str:
        """Return the end of the engine's stderr."""

    def _crash_error(self) -> EngineCrashed:
        return make_crash_error(self._reap(), self._phase, self._read_stderr())

    def request(self, request: Request, cancel: CancelToken) -> Iterator[EngineReply]:
        """Send a request and yield its replies, the final one last.

        When `cancel` is set and the engine does not end the request in time, the connection is abandoned and the
        last reply is an ErrorReply with CANCELLED. Raises EngineCrashed, EngineTimedOut and ProtocolError.
        """
        self._phase = _PHASES.get(type(request), EnginePhase.PREFILLING)
        # An engine process that does not read would block the sending of a long request for ever.
        send_timer = Timer(self.timeouts.stall_s, self._interrupt)
        send_timer.start()
        try:
            sent_bytes = protocol.send(self._connection, request)
        except OSError as error:
            raise self._crash_error() from error
        finally:
            send_timer.cancel()
        is_finished = False
        try:
            for reply in self._receive_replies(self.timeouts.stall_s + sent_bytes / _MIN_TOKENIZER_BYTES_PER_S, cancel):
                is_finished = isinstance(reply, FinalReply)
                yield reply
        finally:
            if not is_finished:
                # The remaining replies must not be taken for those of the next request.
                self.abandon()

    def _receive_replies(self, stall_s: float, cancel: CancelToken) -> Iterator[EngineReply]:
        timeout_s, cancel_sent, deadline = stall_s, False, monotonic() + stall_s
        while True:
            if not cancel_sent and cancel.is_set():
                cancel_sent = True
                deadline = monotonic() + self.timeouts.cancel_s
                with contextlib.suppress(OSError):
                    protocol.send(self._connection, protocol.CancelRequest())
            # What has arrived counts more than the clock: this process may have been the slow one.
            is_overdue = monotonic() >= deadline
            try:
                waitables = [self._connection] if cancel_sent else [self._connection, cancel]
                ready = wait(waitables, max(0.0, deadline - monotonic()))
                if is_overdue and (cancel_sent or not ready):
                    if not cancel_sent:
                        self.kill()
                        raise EngineTimedOut(
                            f"The engine stopped responding for {timeout_s:.0f} s while {self._phase}",
                            _suggest_next_step(self._phase),
                            detail=self._read_stderr(),
                        )
                    self.abandon()
                    yield protocol.ErrorReply(protocol.ErrorCode.CANCELLED, "cancelled")
                    return
                if self._connection not in ready:
                    continue
                reply = protocol.receive_reply(self._connection)
            except (EOFError, OSError) as error:
                raise self._crash_error() from error
            timeout_s = self.timeouts.template_s if isinstance(reply, protocol.RenderingTemplate) else stall_s
            self._phase = _PHASES.get(type(reply), self._phase)
            yield reply
            if not cancel_sent:
                deadline = monotonic() + timeout_s
            if isinstance(reply, FinalReply):
                return


def read_log_tail(log: Path) -> str:
    """Return the end of an engine's log, "" when there is none."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        return file.read(_LOG_TAIL_BYTES).decode("utf-8", "replace").strip()
    return ""


def make_crash_error(exit_code: int | None, phase: EnginePhase, stderr: str) -> EngineCrashed:
    """Return the error for an engine process that ended in this phase.
    exit_code: as subprocess gives it (negative for a signal), None where it is unknown."""
    match = re.search(r"(?m)^.*(GGML_ASSERT\(.*?\) failed|terminate called.*|\S*: fatal error.*)$", stderr)
    cause, next_step = match[1] if match else "", _suggest_next_step(phase)
    if "bad_alloc" in stderr:
        cause, outcome, next_step = "", "ran out of memory", "Try a smaller --ctx-size or a smaller model"
    elif exit_code is None or exit_code >= 0:
        outcome = "stopped" if exit_code is None else f"ended with code {exit_code}"
        cause = cause or (stderr.splitlines() or [""])[-1].strip()
    elif -exit_code == getattr(signal, "SIGKILL", 9):
        cause, outcome = "", "was killed"
        next_step = "Ask again, or try a smaller --ctx-size or model: the system may have run out of memory"
    else:
        names = {number.value: number.name for number in signal.Signals}
        outcome = f"crashed ({names.get(-exit_code, f'signal {-exit_code}')})"
    return EngineCrashed(
        f"The engine {outcome} while {phase}{cause and f': {cause}'}",
        next_step,
        detail=stderr,
        is_cpu_fault=exit_code in _FAULT_EXIT_CODES,
    )


def _suggest_next_step(phase: EnginePhase) -> str:
    # What fails because of the file itself fails again.
    if phase in (EnginePhase.LOADING, EnginePhase.WARMING_UP):
        return "Try another copy of the file, and run `phichat doctor`"
    if phase is EnginePhase.RENDERING:
        return "Try another model, or another copy of this one"
    return "Ask again: a new engine will start"
