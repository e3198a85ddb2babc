"""Files of the user's that are used where they are, under names of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phichat.errors import ConfigError, ModelFileError
from phichat.storage.json_file import JsonFile


@dataclass(frozen=True, slots=True)
class Link:
    """path: of a split model the first part. hashes: the sha256 of each part at the time of linking."""

    name: str
    path: Path
    hashes: tuple[str, ...]


class LinkStore:
    """The links of this user, in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def load(self) -> Mapping[str, Link]:
        """name -> link. Raises ConfigError for a file that is no longer what was written."""
        try:
            document: dict[str, Any] = json.loads(self._file.read_bytes())
            return {
                name: Link(name, Path(entry["path"]), tuple(str(digest) for digest in entry["sha256"]))
                for name, entry in document.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{self._file} cannot be read ({error})", "Mend it, or remove it and link again"
            ) from error

    def add_link(self, link: Link) -> None:
        """Keep a link; one of the same name is replaced. Raises ModelFileError when it cannot be kept."""
        self._save({**self.load(), link.name: link})

    def remove_link(self, name: str) -> None:
        """Forget a link. Raises ModelFileError when that cannot be kept."""
        self._save({other: link for other, link in self.load().items() if other != name})

    def _save(self, links: Mapping[str, Link]) -> None:
        document = {name: {"path": str(link.path), "sha256": list(link.hashes)} for name, link in links.items()}
        try:
            JsonFile(self._file).save(document)
        except OSError as error:
            raise ModelFileError(
                f"The link cannot be kept in {self._file} ({error.strerror})", "Make room or mend the permissions there"
            ) from error
