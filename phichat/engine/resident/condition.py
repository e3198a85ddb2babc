"""What is the matter with an engine that does not answer, as far as the system can tell."""

from __future__ import annotations

import contextlib
import sys
import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.engine.resident.address import Address

if TYPE_CHECKING:
    import psutil

_NEW_S = 30.0
_LOOK_S = 0.25
_GONE_S = 2.0


class Condition(Enum):
    """Of an engine."""

    ABSENT = "absent"
    """There is no such process."""
    NEW = "new"
    """It was started a moment ago."""
    WORKING = "working"
    """It is computing, or waits for a processor or a disk."""
    STUCK = "stuck"
    """It is stopped, or does nothing at all."""


def condition(address: Address) -> Condition:
    """How the engine of that address is; watches it for a quarter of a second."""
    import psutil

    process = engine_process(address)
    if process is None:
        return Condition.ABSENT
    try:
        if process.status() == psutil.STATUS_STOPPED:
            return Condition.STUCK
        if time.time() - process.create_time() < _NEW_S:
            return Condition.NEW
        before = process.cpu_times()
        until = time.monotonic() + _LOOK_S
        while time.monotonic() < until:
            time.sleep(_LOOK_S / 5)
            if _wants_to_go_on(process.pid):
                return Condition.WORKING
        now = process.cpu_times()
        worked = now.user + now.system > before.user + before.system
        return Condition.WORKING if worked else Condition.STUCK
    except psutil.NoSuchProcess:
        return Condition.ABSENT
    except psutil.Error:
        return Condition.WORKING


def engine_process(address: Address) -> psutil.Process | None:
    """The engine of that address, found by its command line: nobody else's process bears that."""
    import psutil

    mark = ["--door", str(address.stem)]
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            arguments = process.cmdline()
            if mark[1] in arguments and arguments[arguments.index(mark[1]) - 1] == mark[0]:
                return process
    return None


def end(address: Address) -> None:
    """Kill the engine of that address, if there is one, and wait until it is gone."""
    import psutil

    process = engine_process(address)
    if process is not None:
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(_GONE_S)


def is_gone(address: Address, within_s: float) -> bool:
    """Whether there is no engine of that address any more, at last."""
    import psutil

    process = engine_process(address)
    try:
        if process is not None:
            process.wait(within_s)
    except psutil.TimeoutExpired:
        return False
    return True


def _wants_to_go_on(pid: int) -> bool:
    """Whether a thread of it waits for a processor or a disk; False where the system does not tell."""
    if sys.platform != "linux":
        return False
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            if thread.read_text().rpartition(")")[2].split()[0] in ("R", "D"):
                return True
    return False
