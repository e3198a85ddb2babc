"""Small facts about files, remembered: a folder with one JSON file for each file they are about.

One each, so that processes which write at once cannot lose each other's. What cannot be read is not
known, and what cannot be written costs only the time to find it out again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phichat.paths import write_atomically

Fingerprint = list[int]


class FileMetadataCache:
    """What is known of files. Links are followed: a file is known under all its names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_entry(self, path: Path) -> dict[str, Any]:
        """What is known of it, empty when nothing is."""
        return _read_json(self._entry_path(path))

    def write_entry(self, path: Path, document: Mapping[str, Any]) -> None:
        """Replace what is known of it."""
        try:
            content = json.dumps({"path": str(path), **document}).encode("utf-8", "surrogateescape")
            write_atomically(self._entry_path(path), content)
        except OSError:
            return

    def remove_entry(self, path: Path) -> None:
        """Know nothing of it any more."""
        try:
            self._entry_path(path).unlink(missing_ok=True)
        except OSError:
            return

    def iter_entries(self) -> Iterator[dict[str, Any]]:
        """Everything that is known; each with the "path" it was noted under."""
        try:
            entries = sorted(self._folder.glob("*.json"))
        except OSError:
            return
        for entry in entries:
            if (document := _read_json(entry)) and isinstance(document.get("path"), str):
                yield document

    def _entry_path(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return self._folder / f"{name}.json"


def fingerprint(status: os.stat_result) -> Fingerprint:
    """Changes when a file is written to or replaced, also when its modification time is set back."""
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _read_json(entry: Path) -> dict[str, Any]:
    try:
        document = json.loads(entry.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
