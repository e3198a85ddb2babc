"""What the files of models were proven to be, so that they are read whole once and not at every load.

A proof holds for a file as it was then: device, inode, size, times of change. The time of status change
cannot be set by hand, so a write that restores the modification time is noticed too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from phichat.errors import ModelFileError
from phichat.storage.file_metadata import FileMetadataCache
from phichat.storage.fingerprint import compute_fingerprint

_BUFFER_BYTES = 1 << 20
_FILE_TIME_TICK_S = 0.02
"""Longer than any system takes to count file times on: two writes within one tick look the same."""


class CancelSignal(Protocol):
    """The word to stop, as the engine's Cancel says it."""

    def is_set(self) -> bool:
        """Whether it shall end."""
        ...


@dataclass(frozen=True, slots=True)
class VerifiedHash:
    """sha256: lower-case hexadecimal. verified_at: ISO 8601, UTC."""

    sha256: str
    verified_at: str


class HashCache:
    """The proofs of this user, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._metadata = FileMetadataCache(folder)

    def get(self, path: Path) -> VerifiedHash | None:
        """The proof of the file, while it is the file that was proven. Links are followed."""
        entry = self._metadata.read_entry(path)
        fingerprint = list(compute_fingerprint(path))
        if not fingerprint or entry.get("key") != fingerprint or not {"sha256", "verified_at"} <= entry.keys():
            return None
        return VerifiedHash(str(entry["sha256"]), str(entry["verified_at"]))

    def get_stale(self, path: Path) -> str:
        """The sha256 that the file once had, whatever became of it since; "" when nobody knows."""
        return str(self._metadata.read_entry(path).get("sha256", ""))

    def store(self, path: Path, sha256: str) -> None:
        """The file, as it is now, was just read whole and has this hash."""
        try:
            # A later write has to get a later time.
            age = time.time() - path.stat().st_ctime
            if 0 <= age < _FILE_TIME_TICK_S:
                time.sleep(_FILE_TIME_TICK_S - age)
        except OSError:
            return
        entry = {"key": compute_fingerprint(path), "sha256": sha256, "verified_at": utc_now()}
        self._metadata.write_entry(path, entry)

    def invalidate(self, path: Path) -> None:
        """The file is not what it was, whatever its times say; what it should be stays known."""
        if entry := self._metadata.read_entry(path):
            self._metadata.write_entry(path, {**entry, "key": None})

    def remove(self, path: Path) -> None:
        """The file is gone, or about to be."""
        self._metadata.remove_entry(path)


def utc_now() -> str:
    """This moment to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def hash_file(path: Path, cancel: CancelSignal) -> Generator[float, None, str]:
    """Read a file whole, yielding the fraction read (0 to 1) a few times a second; returns its sha256.

    A set cancel ends it with "". Memory is one buffer, whatever the size. Raises ModelFileError when the
    file cannot be read, or is written to meanwhile.
    """
    digest, buffer = hashlib.sha256(), bytearray(_BUFFER_BYTES)
    view, bytes_read, reported_at = memoryview(buffer), 0, time.monotonic()
    try:
        with path.open("rb", buffering=0) as file:
            before = compute_fingerprint(file.fileno())
            size = os.fstat(file.fileno()).st_size
            yield 0.0
            while count := file.readinto(buffer):
                digest.update(view[:count])
                bytes_read += count
                if cancel.is_set():
                    return ""
                if (now := time.monotonic()) - reported_at > 0.1:
                    reported_at = now
                    yield min(1.0, bytes_read / max(1, size))
            after = compute_fingerprint(file.fileno())
    except OSError as error:
        raise ModelFileError(
            f"{path} cannot be read ({error.strerror})", "Check the disk it is on and its permissions"
        ) from error
    if before != after:
        raise ModelFileError(f"{path} was written to while it was read", "Wait for the other program, then try again")
    yield 1.0
    return digest.hexdigest()
