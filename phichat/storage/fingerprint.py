"""Whether a file is still the one it was, at the price of a look."""

from __future__ import annotations

import os


def compute_fingerprint(path: str | os.PathLike[str]) -> str:
    """Another text when the file at that path was replaced or written to; "" when there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  (whatever can be a path)
    except (OSError, ValueError):
        return ""
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"


def are_unchanged(fingerprints: tuple[tuple[str, str], ...]) -> bool:
    """Whether every file still has its stamp."""
    return all(compute_fingerprint(path) == expected for path, expected in fingerprints)
