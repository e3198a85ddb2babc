"""A connection to an engine process: listened to with deadlines, and its end explained."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import Any

from phichat.cancel import CancelToken
from phichat.engine.ipc import protocol
from phichat.engine.ipc.framing import wait
from phichat.engine.ipc.protocol import (
    BenchmarkReply,
    EngineInfo,
    EngineReply,
    ErrorCode,
    ErrorReply,
    GenerationFinished,
    LoadProgress,
    ModelLoaded,
    OutputDelta,
    PrefillProgress,
    RenderingTemplate,
    Request,
    SampleOutput,
    SamplesFinished,
    StillRunning,
    TokenCount,
    WarmingUp,
)
from phichat.errors import EngineCrashed, EngineTimedOut

_TERMINAL_REPLIES = (
    EngineInfo,
    ModelLoaded,
    TokenCount,
    GenerationFinished,
    SamplesFinished,
    BenchmarkReply,
    ErrorReply,
    StillRunning,
)
"""The replies that end a request."""

_MIN_DISK_BYTES_PER_S = 100_000_000
"""The slowest disk that a model is expected on."""


_FAULT_EXIT_CODES = frozenset(
    {-getattr(signal, name, 0) for name in ("SIGSEGV", "SIGILL", "SIGBUS", "SIGFPE")}
    | {0xC0000005, 0xC000001D, 0xC0000094}  # Windows: access violation, illegal instruction, division
)
"""How a process ends that the CPU refused an instruction or an address."""

_LOG_TAIL_BYTES = 1 << 16
"""Bytes of a log that are looked at."""

_MIN_TOKENIZER_BYTES_PER_S = 500_000
"""The slowest that a tokenizer is expected to be, on one endless word; it gives no sign of life meanwhile."""


@dataclass(frozen=True, slots=True)
class EngineTimeouts:
    """Seconds without any sign of life after which the engine counts as stuck.

    Loading and evaluating get the time on top that bringing the whole model in from a slow disk takes,
    for both may have to do just that.
    """

    startup_s: float = 30.0
    template_s: float = 8.0
    stall_s: float = 12.0
    cancel_s: float = 0.5

    def for_model(self, model_bytes: int) -> EngineTimeouts:
        """The same for a model that takes `size` bytes of memory."""
        return EngineTimeouts(
            self.startup_s, self.template_s, self.stall_s + model_bytes / _MIN_DISK_BYTES_PER_S, self.cancel_s
        )


class EnginePhase(StrEnum):
    """What an engine process was last heard to be doing."""

    STARTING = "starting"
    LOADING = "loading the model"
    WARMING_UP = "trying the model on this CPU"
    RENDERING = "rendering the model's chat template"
    PREFILLING = "reading the prompt"
    GENERATING = "generating"
    MEASURING = "measuring"


class EngineConnection(ABC):
    """A connection to an engine process: requests go out, and what comes back is waited for with deadlines."""

    def __init__(self, timeouts: EngineTimeouts, connection: Any) -> None:
        self.timeouts = timeouts
        self._connection = connection
        self._phase = EnginePhase.STARTING

    @property
    @abstractmethod
    def is_alive(self) -> bool:
        """Whether the engine can be asked something."""

    @abstractmethod
    def abandon(self) -> None:
        """Nothing of the engine is waited for any more."""

    @abstractmethod
    def kill(self) -> None:
        """The engine is stuck, and has to be gone."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more will be asked."""

    @abstractmethod
    def _interrupt(self) -> None:
        """Make a sending that hangs fail, from any thread."""

    @abstractmethod
    def _crash_error(self) -> EngineCrashed:
        """What the end of the connection means."""

    @abstractmethod
    def _read_stderr(self) -> str:
        """The engine's last words."""

    def request(self, request: Request, cancel: CancelToken) -> Iterator[EngineReply]:
        """The replies to one request, the final one last.

        When `cancel` is set and the engine does not end the request in time, the link is given up and the
        last reply is a Failed with CANCELLED; `alive` tells. Raises EngineCrashed and EngineTimedOut.
        """
        match request:
            case protocol.LoadModel():
                self._phase = EnginePhase.LOADING
            case protocol.BenchmarkRequest():
                self._phase = EnginePhase.MEASURING
            case _:
                self._phase = EnginePhase.PREFILLING
        # A process that does not read would keep a long request from being sent for ever.
        send_timer = Timer(self.timeouts.stall_s, self._interrupt)
        send_timer.start()
        try:
            sent_bytes = protocol.send(self._connection, request)
        except OSError as error:
            raise self._crash_error() from error
        finally:
            send_timer.cancel()
        stall_s = self.timeouts.stall_s + sent_bytes / _MIN_TOKENIZER_BYTES_PER_S
        is_finished = False
        try:
            for reply in self._receive_replies(stall_s, cancel):
                is_finished = isinstance(reply, _TERMINAL_REPLIES)
                yield reply
        finally:
            if not is_finished:
                # Nobody listens to the rest, and the next request must not be answered by it.
                self.abandon()

    def _receive_replies(self, stall_s: float, cancel: CancelToken) -> Iterator[EngineReply]:
        timeout_s = stall_s
        cancel_sent = False
        deadline = monotonic() + timeout_s
        while True:
            if not cancel_sent and cancel.is_set():
                cancel_sent = True
                deadline = monotonic() + self.timeouts.cancel_s
                with contextlib.suppress(OSError):
                    protocol.send(self._connection, protocol.CancelRequest())
            # What has arrived is looked at before the clock: this process may have been the slow one.
            is_overdue = monotonic() >= deadline
            try:
                waitables = [self._connection] if cancel_sent else [self._connection, cancel]
                ready = wait(waitables, max(0.0, deadline - monotonic()))
                if is_overdue and (cancel_sent or not ready):
                    if not cancel_sent:
                        self.kill()
                        raise self._timeout_error(timeout_s)
                    self.abandon()
                    yield ErrorReply(ErrorCode.CANCELLED, "cancelled")
                    return
                if self._connection not in ready:
                    continue
                reply: EngineReply = protocol.receive(self._connection)
            except (EOFError, OSError) as error:
                raise self._crash_error() from error
            timeout_s = stall_s
            match reply:
                case RenderingTemplate():
                    timeout_s, self._phase = self.timeouts.template_s, EnginePhase.RENDERING
                case PrefillProgress():
                    self._phase = EnginePhase.PREFILLING
                case OutputDelta() | SampleOutput():
                    self._phase = EnginePhase.GENERATING
                case WarmingUp():
                    self._phase = EnginePhase.WARMING_UP
                case LoadProgress():
                    self._phase = EnginePhase.LOADING
                case _:
                    pass
            yield reply
            if not cancel_sent:
                deadline = monotonic() + timeout_s
            if isinstance(reply, _TERMINAL_REPLIES):
                return

    def _timeout_error(self, seconds: float) -> EngineTimedOut:
        return EngineTimedOut(
            f"The engine gave no sign of life for {seconds:.0f} s while {self._phase}",
            suggest_next_step(self._phase),
            detail=self._read_stderr(),
        )


def read_log_tail(log: Path) -> str:
    """The end of what an engine wrote to its log, "" when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            return file.read(_LOG_TAIL_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return ""


def make_crash_error(exit_code: int | None, phase: EnginePhase, stderr: str) -> EngineCrashed:
    """The error for a child that ended with `code` (as subprocess gives it) while `doing` something."""
    assertion = re.search(
        r"^.*(GGML_ASSERT\(.*?\) failed|terminate called.*|\S*: fatal error.*)$", stderr, re.MULTILINE
    )
    last_line = (stderr.splitlines() or [""])[-1].strip()
    cause = assertion.group(1) if assertion else ""
    if "bad_alloc" in stderr:
        return EngineCrashed(
            f"The engine ran out of memory while {phase}", "Try a smaller --ctx-size or a smaller model", detail=stderr
        )
    if exit_code is None or exit_code >= 0:
        outcome = "closed its connection" if exit_code is None else f"ended with code {exit_code}"
        cause = cause or last_line
    elif -exit_code == getattr(signal, "SIGKILL", 9):
        return EngineCrashed(
            f"The engine was killed while {phase}, by someone or by the system because memory ran out",
            "Ask again, with a smaller --ctx-size or model if it was memory",
            detail=stderr,
        )
    else:
        outcome = f"crashed ({_format_signal(-exit_code)})"
    cause_suffix = f": {cause}" if cause else ""
    return EngineCrashed(
        f"The engine {outcome} while {phase}{cause_suffix}",
        suggest_next_step(phase),
        detail=stderr,
        is_cpu_fault=exit_code in _FAULT_EXIT_CODES,
    )


def suggest_next_step(phase: EnginePhase) -> str:
    """The next step after a failure: what fails with the file itself fails again."""
    match phase:
        case EnginePhase.LOADING | EnginePhase.WARMING_UP:
            return "try another copy of the file, and see what `phichat doctor` says"
        case EnginePhase.RENDERING:
            return "try another model, or another copy of this one"
        case _:
            return "ask again; a new engine will be started"


def _format_signal(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
