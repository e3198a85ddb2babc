"""SHA-256 of model files, remembered so that a file is read whole once and not at every load.

A hash holds for a file as it was when it was read: its fingerprint includes the time of status change, which
cannot be set, so a write that restores the modification time is noticed too.
"""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from phichat.cancel import CancelToken
from phichat.errors import ModelFileError
from phichat.storage.fingerprint import compute_fingerprint
from phichat.storage.json_file import FileMetadataCache

_BUFFER_BYTES = 1 << 20
_REPORT_INTERVAL_S = 0.1
_FILE_TIME_TICK_S = 0.02
"""Longer than the resolution of file times on any system: two writes within one tick look the same."""


@dataclass(frozen=True, slots=True)
class VerifiedHash:
    """sha256: lower-case hexadecimal. verified_at: ISO 8601, UTC."""

    sha256: str
    verified_at: str


class HashCache(FileMetadataCache):
    """Hashes of files, by path. Links are followed."""

    def get(self, path: Path) -> VerifiedHash | None:
        """Return the hash of a file that is unchanged since it was read."""
        entry, fingerprint = self.read_entry(path), list(compute_fingerprint(path))
        if not fingerprint or entry.get("key") != fingerprint or not {"sha256", "verified_at"} <= entry.keys():
            return None
        return VerifiedHash(str(entry["sha256"]), str(entry["verified_at"]))

    def get_stale(self, path: Path) -> str:
        """Return the last known sha256 of a file that may have changed since, "" if there is none."""
        return str(self.read_entry(path).get("sha256", ""))

    def store(self, path: Path, sha256: str) -> None:
        """Record the hash of a file that was just read whole."""
        try:
            # A later write must get a later time.
            age = time.time() - path.stat().st_ctime
        except OSError:
            return
        if 0 <= age < _FILE_TIME_TICK_S:
            time.sleep(_FILE_TIME_TICK_S - age)
        self.write_entry(path, {"key": compute_fingerprint(path), "sha256": sha256, "verified_at": utc_now()})

    def invalidate(self, path: Path) -> None:
        """Mark a file as damaged, even if its fingerprint is unchanged; the hash that it should have stays recorded."""
        if entry := self.read_entry(path):
            self.write_entry(path, {**entry, "key": None})


def utc_now() -> str:
    """Return the current time to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def hash_file(path: Path, cancel: CancelToken) -> Iterator[tuple[float, str]]:
    """Read a file, yielding the fraction read (0 to 1) about ten times a second, and at the end 1 with its sha256,
    which is "" before. A cancel ends it early.

    Memory is one buffer, for any size. Raises ModelFileError if the file cannot be read or changes meanwhile.
    """
    digest, buffer = hashlib.sha256(), bytearray(_BUFFER_BYTES)
    view, bytes_read, reported_at = memoryview(buffer), 0, time.monotonic()
    try:
        with path.open("rb", buffering=0) as file:
            before = compute_fingerprint(file.fileno())
            size = path.stat().st_size
            yield 0.0, ""
            while count := file.readinto(buffer):
                digest.update(view[:count])
                bytes_read += count
                if cancel.is_set():
                    return
                if (now := time.monotonic()) - reported_at > _REPORT_INTERVAL_S:
                    reported_at = now
                    yield min(1.0, bytes_read / max(1, size)), ""
            after = compute_fingerprint(file.fileno())
    except OSError as error:
        message = f"{path} cannot be read ({error.strerror})"
        raise ModelFileError(message, "Check the disk it is on and its permissions") from error
    if before != after:
        raise ModelFileError(f"{path} was changed while it was read", "Wait for the other program, then try again")
    yield 1.0, digest.hexdigest()
