"""How the places of downloads are: what is half there, what leads nowhere, what nothing leads to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phichat.models.destination import JOURNAL, PART
from phichat.models.finding import file_size, subfolders
from phichat.models.journal import progress_of


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download that has not ended. done: bytes that are there; total 0 where the file does not tell.

    repository: "" for one from a plain address.
    """

    repository: str
    path: Path
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """dangling: links in snapshots to blobs that are missing. unlinked: blobs that no snapshot links to."""

    unfinished: tuple[Unfinished, ...]
    dangling: tuple[Path, ...]
    unlinked: tuple[Path, ...]

    @property
    def unlinked_size(self) -> int:
        """Bytes."""
        return sum(file_size(path) for path in self.unlinked)


def examine(hub: Path, downloads: Path) -> CacheHealth:
    """Looks at names, links, sizes and the journals of downloads only."""
    unfinished = [*_unfinished("", downloads.rglob("*"))]
    dangling: list[Path] = []
    unlinked: list[Path] = []
    for folder in subfolders(hub):
        if not folder.name.startswith("models--"):
            continue
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        links = [path for path in (folder / "snapshots").rglob("*") if path.is_symlink()]
        dangling += [link for link in links if not link.exists()]
        linked = {link.resolve() for link in links}
        blobs = sorted((folder / "blobs").glob("*"))
        unfinished += _unfinished(repository, blobs)
        # A blob is named by its sha256, or by git's sha1.
        unlinked += [blob for blob in blobs if len(blob.name) in (40, 64) and blob.resolve() not in linked]
    return CacheHealth(tuple(unfinished), tuple(dangling), tuple(unlinked))


def _unfinished(repository: str, files: Iterator[Path] | list[Path]) -> Iterator[Unfinished]:
    for file in files:
        if file.name.endswith(PART):
            done, total = progress_of(file.with_name(file.name.removesuffix(PART) + JOURNAL)) or (file_size(file), 0)
            yield Unfinished(repository, file, done, total)
        elif file.name.endswith(".incomplete"):
            # Another tool's, which appends: what is there is what has come.
            yield Unfinished(repository, file, file_size(file), 0)
