"""What was found out about this machine, one JSON file of entries by key."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from phichat.paths import write_atomically


class JsonFileCache:
    """An unreadable file is an empty one, and one that cannot be written costs only the time to find out again."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def load_entries(self) -> Mapping[str, dict[str, Any]]:
        """key -> what was found, and for what."""
        try:
            document = json.loads(self._file.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        if not isinstance(document, dict):
            return {}
        return {key: entry for key, entry in document.items() if isinstance(entry, dict)}

    def _store(self, key: str, entry: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):
            write_atomically(self._file, json.dumps({**self.load_entries(), key: entry}, indent=1).encode())
