"""An exclusive lock on a file."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from phichat.cancel import CancelToken

_RETRY_INTERVAL_S = 0.02

if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _unlock(handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        # A holder may remove the file when it releases it: a lock on a removed file excludes no other process.
        return os.fstat(handle).st_nlink > 0

    def _unlock(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_UN)


@contextlib.contextmanager
def lock_file(path: Path, timeout_s: float, cancel: CancelToken | None = None, *, mode: int = 0o600) -> Iterator[bool]:
    """Hold a lock between processes and threads that ends with the process; yields False if it was not acquired
    within timeout_s seconds, or before a cancel.

    The lock excludes the `filelock` package too, which other programs use on the files of the hub's cache. mode: of
    the file if it is created. Raises OSError where files cannot be locked.
    """
    handle = _acquire(path, time.monotonic() + timeout_s, cancel, mode)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            _unlock(handle)
            os.close(handle)


def _acquire(path: Path, deadline: float, cancel: CancelToken | None, mode: int) -> int | None:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, mode)
        try:
            if _try_lock(handle):
                return handle
        except OSError:
            os.close(handle)
            raise
        os.close(handle)
        if time.monotonic() >= deadline or (cancel and cancel.is_set()):
            return None
        time.sleep(_RETRY_INTERVAL_S)
