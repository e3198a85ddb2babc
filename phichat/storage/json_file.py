"""JSON objects in files: one by itself, or one for each of other files."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from phichat.storage.atomic_write import write_atomically


class JsonFile:
    """JSON object in a file of the user's, replaced in one step. A file that cannot be read counts as empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, *, strict: bool = False) -> dict[str, Any]:
        """Return the object, {} if there is none; strict: raise OSError or ValueError for an unreadable file."""
        try:
            if isinstance(document := json.loads(self.path.read_bytes()), dict):
                return document
            raise ValueError("not a JSON object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            if strict:
                raise
            return {}

    def load_entries(self) -> dict[str, dict[str, Any]]:
        """Return the values that are objects themselves, by key."""
        return {key: entry for key, entry in self.load().items() if isinstance(entry, dict)}

    def save(self, document: Mapping[str, Any]) -> None:
        """Replace the object. Raises OSError."""
        write_atomically(self.path, json.dumps(document, indent=1).encode())

    def store_entry(self, key: str, entry: Mapping[str, Any]) -> None:
        """Replace one value. A file that cannot be written only costs the time to compute the value again."""
        with suppress(OSError):
            self.save({**self.load_entries(), key: entry})


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
        with suppress(OSError):
            self._entry_file(path).save({"path": str(path), **metadata})

    def update_entry(self, path: Path, **metadata: Any) -> None:
        """Replace some of the metadata of a file."""
        self.write_entry(path, {**self.read_entry(path), **metadata})

    def remove_entry(self, path: Path) -> None:
        """Remove the metadata of a file."""
        with suppress(OSError):
            self._entry_file(path).path.unlink(missing_ok=True)

    def iter_entries(self) -> Iterator[dict[str, Any]]:
        """Yield every entry; its "path" is the one it was written under."""
        with suppress(OSError):
            for entry in sorted(self._folder.glob("*.json")):
                if isinstance((metadata := JsonFile(entry).load()).get("path"), str):
                    yield metadata

    def _entry_file(self, path: Path) -> JsonFile:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return JsonFile(self._folder / f"{name}.json")
