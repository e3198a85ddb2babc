"""A JSON object in a file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phichat.storage.atomic_write import write_atomically


class JsonFile:
    """JSON object in a file of the user's, replaced in one step. A file that cannot be read counts as empty."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self, *, strict: bool = False) -> dict[str, Any]:
        """Return the object, {} if there is none. strict: raise OSError or ValueError for a file that exists and
        cannot be read."""
        try:
            document = json.loads(self.path.read_bytes())
            if not isinstance(document, dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError):
            if strict:
                raise
            return {}
        return document

    def load_entries(self) -> dict[str, dict[str, Any]]:
        """Return the values that are objects themselves, by key."""
        return {key: entry for key, entry in self.load().items() if isinstance(entry, dict)}

    def save(self, document: Mapping[str, Any]) -> None:
        """Replace the object. Raises OSError."""
        write_atomically(self.path, json.dumps(document, indent=1).encode())

    def store_entry(self, key: str, entry: Mapping[str, Any]) -> None:
        """Replace one value. A file that cannot be written only costs the time to compute the value again."""
        with contextlib.suppress(OSError):
            self.save({**self.load_entries(), key: entry})
