"""Links: names for the user's own model files, which stay where they are."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from phichat.errors import ConfigError, ModelFileError
from phichat.storage.json_file import JsonFile


@dataclass(frozen=True, slots=True)
class Link:
    """path: the file, or the first part of a split model. hashes: the sha256 of each part when it was linked."""

    name: str
    path: Path
    hashes: tuple[str, ...]


class LinkStore:
    """The user's links, in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = JsonFile(file)

    def load(self) -> Mapping[str, Link]:
        """Return the links by name. Raises ConfigError for a damaged file."""
        try:
            return {
                name: Link(name, Path(entry["path"]), tuple(str(digest) for digest in entry["sha256"]))
                for name, entry in self._file.load(strict=True).items()
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            message = f"{self._file.path} cannot be read ({error})"
            raise ConfigError(message, "Fix it, or remove it and link again") from error

    def add_link(self, link: Link) -> None:
        """Save a link, replacing one of the same name. Raises ConfigError, and ModelFileError if it cannot be saved."""
        self._save({**self.load(), link.name: link})

    def remove_link(self, name: str) -> None:
        """Remove a link. Raises ConfigError, and ModelFileError if that cannot be saved."""
        self._save({other: link for other, link in self.load().items() if other != name})

    def _save(self, links: Mapping[str, Link]) -> None:
        entries = {name: {"path": str(link.path), "sha256": link.hashes} for name, link in links.items()}
        try:
            self._file.save(entries)
        except OSError as error:
            message = f"The links cannot be saved in {self._file.path} ({error.strerror})"
            raise ModelFileError(message, "Free some disk space or fix the permissions of that folder") from error
