"""How the places of downloads are: what is half there, what leads nowhere, what nothing leads to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phichat.models.download.destination import JOURNAL_SUFFIX, PART_SUFFIX
from phichat.models.download.resume_journal import read_progress
from phichat.models.local.discovery import file_size, list_subfolders


@dataclass(frozen=True, slots=True)
class PartialDownload:
    """A download that has not ended. done: bytes that are there; total 0 where the file does not tell.

    repository: "" for one from a plain address.
    """

    repository: str
    path: Path
    downloaded: int
    total: int


@dataclass(frozen=True, slots=True)
class CacheDiagnostics:
    """dangling: links in snapshots to blobs that are missing. unlinked: blobs that no snapshot links to."""

    partial_downloads: tuple[PartialDownload, ...]
    broken_links: tuple[Path, ...]
    orphaned_blobs: tuple[Path, ...]

    @property
    def orphaned_bytes(self) -> int:
        """Bytes."""
        return sum(file_size(path) for path in self.orphaned_blobs)


def diagnose_cache(hub: Path, downloads: Path) -> CacheDiagnostics:
    """Looks at names, links, sizes and the journals of downloads only."""
    partial_downloads = [*_find_partial_downloads("", downloads.rglob("*"))]
    broken_links: list[Path] = []
    orphaned_blobs: list[Path] = []
    for folder in list_subfolders(hub):
        if not folder.name.startswith("models--"):
            continue
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        links = [path for path in (folder / "snapshots").rglob("*") if path.is_symlink()]
        broken_links += [link for link in links if not link.exists()]
        linked = {link.resolve() for link in links}
        blobs = sorted((folder / "blobs").glob("*"))
        partial_downloads += _find_partial_downloads(repository, blobs)
        # A blob is named by its sha256, or by git's sha1.
        orphaned_blobs += [blob for blob in blobs if len(blob.name) in (40, 64) and blob.resolve() not in linked]
    return CacheDiagnostics(tuple(partial_downloads), tuple(broken_links), tuple(orphaned_blobs))


def _find_partial_downloads(repository: str, files: Iterator[Path] | list[Path]) -> Iterator[PartialDownload]:
    for file in files:
        if file.name.endswith(PART_SUFFIX):
            done, total = read_progress(file.with_name(file.name.removesuffix(PART_SUFFIX) + JOURNAL_SUFFIX)) or (
                file_size(file),
                0,
            )
            yield PartialDownload(repository, file, done, total)
        elif file.name.endswith(".incomplete"):
            # Another tool's, which appends: what is there is what has come.
            yield PartialDownload(repository, file, file_size(file), 0)
