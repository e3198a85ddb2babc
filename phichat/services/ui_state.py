"""What the chat interface remembers between runs: theme, unsent prompt, pastes."""

from __future__ import annotations

import json
from collections.abc import Mapping

from phichat.paths import Paths, write_atomically


class UiState:
    """The file chat.json. An unreadable file counts as empty; writing raises OSError."""

    def __init__(self, paths: Paths) -> None:
        self._file = paths.data / "chat.json"
        self._values = self._read()

    @property
    def theme(self) -> str:
        """The theme that the user chose last."""
        return str(self._values.get("theme", "textual-dark"))

    def save_theme(self, name: str) -> None:
        """Store the name of a theme."""
        self._update(theme=name)

    def load_draft(self) -> tuple[str, Mapping[str, str]]:
        """Return the unsent prompt and the pasted texts in it."""
        pastes = self._values.get("pastes")
        return str(self._values.get("draft", "")), pastes if isinstance(pastes, dict) else {}

    def save_draft(self, text: str, pastes: Mapping[str, str]) -> None:
        """Store the unsent prompt and the pasted texts in it."""
        self._update(draft=text, pastes=dict(pastes))

    def _read(self) -> dict[str, object]:
        try:
            document = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def _update(self, **values: object) -> None:
        # Read again: another phichat may have changed the other values.
        merged = self._read() | values
        if merged != self._values:
            self._values = merged
            write_atomically(self._file, json.dumps(merged).encode())
