"""Files of the user's that are used where they are, under names of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phichat.errors import ConfigError, ModelFileError
from phichat.paths import write_atomically


@dataclass(frozen=True, slots=True)
class Link:
    """path: of a split model the first part. hashes: the sha256 of each part at the time of linking."""

    name: str
    path: Path
    hashes: tuple[str, ...]


class Links:
    """The links of this user, in one JSON file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> Mapping[str, Link]:
        """name -> link. Raises ConfigError for a file that is no longer what was written."""
        try:
            document: dict[str, Any] = json.loads(self._file.read_bytes())
            return {
                name: Link(name, Path(entry["path"]), tuple(str(digest) for digest in entry["sha256"]))
                for name, entry in document.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as why:
            raise ConfigError(f"{self._file} cannot be read ({why})", "mend it, or remove it and link again") from why

    def add(self, link: Link) -> None:
        """Keep a link; one of the same name is replaced. Raises ModelFileError when it cannot be kept."""
        self._write({**self.all(), link.name: link})

    def remove(self, name: str) -> None:
        """Forget a link. Raises ModelFileError when that cannot be kept."""
        self._write({other: link for other, link in self.all().items() if other != name})

    def _write(self, links: Mapping[str, Link]) -> None:
        document = {name: {"path": str(link.path), "sha256": list(link.hashes)} for name, link in links.items()}
        try:
            write_atomically(self._file, json.dumps(document, indent=1).encode())
        except OSError as why:
            raise ModelFileError(
                f"The link cannot be kept in {self._file} ({why.strerror})", "make room or mend the permissions there"
            ) from why
