"""Metadata of files, remembered in a folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from phichat.storage.json_file import JsonFile


class FileMetadataCache:
    """Folder with one JSON file per described file, so that processes writing at once lose nothing of each other.

    Links are followed: a file has one entry under all its names. What cannot be read counts as unknown, and what
    cannot be written only costs the time to compute it again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_entry(self, path: Path) -> dict[str, Any]:
        """Return the metadata of a file, {} where there is none."""
        return self._entry_file(path).load()

    def write_entry(self, path: Path, metadata: Mapping[str, Any]) -> None:
        """Replace the metadata of a file."""
        with contextlib.suppress(OSError):
            self._entry_file(path).save({"path": str(path), **metadata})

    def remove_entry(self, path: Path) -> None:
        """Remove the metadata of a file."""
        with contextlib.suppress(OSError):
            self._entry_file(path).path.unlink(missing_ok=True)

    def iter_entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry; its "path" is the one it was written under."""
        entries: list[Path] = []
        with contextlib.suppress(OSError):
            entries = sorted(self._folder.glob("*.json"))
        for entry in entries:
            if isinstance((metadata := JsonFile(entry).load()).get("path"), str):
                yield metadata

    def _entry_file(self, path: Path) -> JsonFile:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return JsonFile(self._folder / f"{name}.json")
