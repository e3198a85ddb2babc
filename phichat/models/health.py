"""How the hub's cache is: what is half there, what leads nowhere, what nothing leads to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from phichat.models.finding import file_size, subfolders


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A download that has not ended. size: bytes that are there."""

    repository: str
    path: Path
    size: int


@dataclass(frozen=True, slots=True)
class CacheHealth:
    """dangling: links in snapshots to blobs that are missing. unlinked: blobs, with their bytes in unlinked_size, that
    no snapshot links to."""

    unfinished: tuple[Unfinished, ...]
    dangling: tuple[Path, ...]
    unlinked: tuple[Path, ...]

    @property
    def unlinked_size(self) -> int:
        return sum(file_size(path) for path in self.unlinked)


def examine(cache: Path) -> CacheHealth:
    """Looks at names, links and sizes only."""
    unfinished: list[Unfinished] = []
    dangling: list[Path] = []
    unlinked: list[Path] = []
    for folder in subfolders(cache):
        if not folder.name.startswith("models--"):
            continue
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        links = [path for path in (folder / "snapshots").rglob("*") if path.is_symlink()]
        dangling += [link for link in links if not link.exists()]
        linked = {link.resolve() for link in links}
        for blob in sorted((folder / "blobs").glob("*")):
            if blob.name.endswith(".incomplete"):
                unfinished.append(Unfinished(repository, blob, file_size(blob)))
            elif blob.is_file() and len(blob.name) in (40, 64) and blob.resolve() not in linked:
                unlinked.append(blob)
    return CacheHealth(tuple(unfinished), tuple(dangling), tuple(unlinked))
