"""State that the chat interface stores between runs: theme, unsent prompt, pastes."""

from collections.abc import Mapping

from phichat.paths import Paths
from phichat.storage.json_file import JsonFile


class UiState:
    """The file chat.json. Saving raises OSError."""

    def __init__(self, paths: Paths) -> None:
        self._file = JsonFile(paths.data / "chat.json")
        self._values = self._file.load()

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

    def _update(self, **values: object) -> None:
        # Loaded again: another phichat may have changed the other values.
        merged = self._file.load() | values
        if merged != self._values:
            self._values = merged
            self._file.save(merged)
