"""What is the matter with an engine that does not answer, as far as the system can tell."""

from __future__ import annotations

import contextlib
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.engine.daemon.registry import DaemonAddress

if TYPE_CHECKING:
    import psutil

_STARTUP_GRACE_S = 30.0
_POLL_INTERVAL_S = 0.25
_EXIT_TIMEOUT_S = 2.0


class ProcessHealth(Enum):
    """Of an engine."""

    NOT_RUNNING = "absent"
    """There is no such process."""
    STARTING = "new"
    """It was started a moment ago."""
    BUSY = "working"
    """It is computing, or waits for a processor or a disk."""
    HUNG = "stuck"
    """It is stopped, or does nothing at all."""


def check_health(address: DaemonAddress) -> ProcessHealth:
    """How the engine of that address is; watches it for a quarter of a second."""
    import psutil

    process = find_process(address)
    if process is None:
        return ProcessHealth.NOT_RUNNING
    try:
        if process.status() == psutil.STATUS_STOPPED:
            return ProcessHealth.HUNG
        if time.time() - process.create_time() < _STARTUP_GRACE_S:
            return ProcessHealth.STARTING
        before = process.cpu_times()
        deadline = time.monotonic() + _POLL_INTERVAL_S
        while time.monotonic() < deadline:
            time.sleep(_POLL_INTERVAL_S / 5)
            if _has_runnable_thread(process.pid):
                return ProcessHealth.BUSY
        now = process.cpu_times()
        has_progress = now.user + now.system > before.user + before.system
        return ProcessHealth.BUSY if has_progress else ProcessHealth.HUNG
    except psutil.NoSuchProcess:
        return ProcessHealth.NOT_RUNNING
    except psutil.Error:
        return ProcessHealth.BUSY


def find_process(address: DaemonAddress) -> psutil.Process | None:
    """The engine of that address, found by its command line: nobody else's process bears that."""
    import psutil

    expected_args = ["--daemon-socket", str(address.stem)]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            arguments = process.cmdline()
            if expected_args[1] in arguments and arguments[arguments.index(expected_args[1]) - 1] == expected_args[0]:
                return process
    return None


def kill(address: DaemonAddress) -> None:
    """Kill the engine of that address, if there is one, and wait until it is gone."""
    import psutil

    process = find_process(address)
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(_EXIT_TIMEOUT_S)


def wait_for_exit(address: DaemonAddress, timeout_s: float) -> bool:
    """Whether there is no engine of that address any more, at last."""
    import psutil

    process = find_process(address)
    try:
        if process is not None:
            process.wait(timeout_s)
    except psutil.TimeoutExpired:
        return False
    return True


def _has_runnable_thread(pid: int) -> bool:
    """Whether a thread of it waits for a processor or a disk; False where the system does not tell."""
    if sys.platform != "linux":
        return False
    for stat_file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat_file.read_text().rpartition(")")[2].split()[0] in ("R", "D"):
                return True
    return False
