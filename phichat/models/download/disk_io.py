"""Reads and writes of partial files, and the errors of their disk."""

from __future__ import annotations

import errno
import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from phichat.errors import StorageError


def hash_range(file: io.FileIO, offset: int, length: int, hasher: hashlib._Hash, buffer: bytearray) -> bool:
    """Feed the hasher with a range; False if the file ends before it."""
    file.seek(offset)
    view = memoryview(buffer)
    while length:
        count = file.readinto(view[: min(length, len(buffer))])
        if not count:
            return False
        hasher.update(view[:count])
        length -= count
    return True


def write_at(file: io.FileIO, offset: int, data: memoryview) -> None:
    """Write all of the data. Raises OSError."""
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


@contextmanager
def disk_errors(folder: Path, missing: int = 0) -> Iterator[None]:
    """Raise StorageError for an OSError; see storage_error."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, folder, missing) from error


def storage_error(error: OSError, folder: Path, missing: int = 0) -> StorageError:
    """Return the error for an OSError about a folder. missing: bytes that are still to be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk of {folder} is full; {missing / 1e6:,.0f} MB are still needed",
            "Free some space, then pull again to resume",
        )
    if error.errno == errno.EFBIG:
        return StorageError(f"Files in {folder} cannot be this large", "Set HF_HUB_CACHE to a folder on another disk")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(
            f"{folder} is not writable", "Change its permissions, or set HF_HUB_CACHE to another folder"
        )
    return StorageError(f"{folder} cannot be written ({error.strerror})", "Check the disk it is on")
