"""State of a daemon that does not answer, as the operating system reports it."""

from __future__ import annotations

import contextlib
import sys
import time
from enum import Enum, auto
from itertools import pairwise
from pathlib import Path

import psutil

from phichat.engine.daemon.registry import DaemonAddress

_STARTUP_GRACE_S = 30.0
_POLL_INTERVAL_S = 0.25


class ProcessHealth(Enum):
    """State of a process."""

    NOT_RUNNING = auto()
    STARTING = auto()
    """It was started less than _STARTUP_GRACE_S ago."""
    BUSY = auto()
    """It computes, or waits for a processor or a disk."""
    HUNG = auto()
    """It is stopped, or does nothing at all."""


def check_health(address: DaemonAddress) -> ProcessHealth:
    """Return the state of a daemon, after watching it for a quarter of a second."""
    if (process := find_process(address)) is None:
        return ProcessHealth.NOT_RUNNING
    try:
        if process.status() == psutil.STATUS_STOPPED:
            return ProcessHealth.HUNG
        if time.time() - process.create_time() < _STARTUP_GRACE_S:
            return ProcessHealth.STARTING
        before, deadline = process.cpu_times(), time.monotonic() + _POLL_INTERVAL_S
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
    """Return the process of a daemon, found by its command line, which no other process has."""
    for pid in psutil.pids():
        # A process may end at any moment, also between two looks at it.
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            if ("--daemon-socket", str(address.stem)) in pairwise(process.cmdline()):
                return process
    return None


def kill(address: DaemonAddress) -> None:
    """Kill the process of a daemon, if there is one, and wait for its end."""
    if process := find_process(address):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(2.0)


def wait_for_exit(address: DaemonAddress, timeout_s: float) -> bool:
    """Wait for the end of a daemon, and return whether it has ended."""
    try:
        if process := find_process(address):
            process.wait(timeout_s)
    except psutil.TimeoutExpired:
        return False
    return True


def _has_runnable_thread(pid: int) -> bool:
    """Return whether a thread waits for a processor or a disk; False where the system does not report it."""
    if sys.platform != "linux":
        return False
    for stat_file in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if stat_file.read_text().rpartition(")")[2].split()[0] in ("R", "D"):
                return True
    return False
