"""Tell from the metadata of a file that it was replaced or written to."""

import os
from collections.abc import Iterable

Fingerprint = tuple[int, ...]
"""Device, inode, size, and the times of the last modification and of the last status change in nanoseconds;
() where there is no file. The last one cannot be set, so it also changes when the modification time is set back."""

FileFingerprints = tuple[tuple[str, Fingerprint], ...]
"""Paths of files, each with its fingerprint."""


def compute_fingerprint(file: str | os.PathLike[str] | int) -> Fingerprint:
    """Return the fingerprint of the file at a path or with a descriptor."""
    try:
        status = os.stat(file)  # noqa: PTH116  (also a descriptor)
    except (OSError, ValueError):
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def are_unchanged(fingerprints: Iterable[tuple[str, Fingerprint]]) -> bool:
    """Return whether every file still has its fingerprint."""
    return all(compute_fingerprint(path) == fingerprint for path, fingerprint in fingerprints)
