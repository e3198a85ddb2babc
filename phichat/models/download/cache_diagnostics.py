"""Diagnosis of the folders of downloads: partial downloads, broken links, orphaned files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from phichat.models.download.destination import JOURNAL_SUFFIX, PART_SUFFIX
from phichat.models.download.resume_journal import read_progress
from phichat.models.hub_layout import file_size, iter_repositories


@dataclass(frozen=True, slots=True)
class PartialDownload:
    """Unfinished download. downloaded: bytes present; total: 0 if unknown. repository: "" for a plain URL."""

    repository: str
    path: Path
    downloaded: int
    total: int


@dataclass(frozen=True, slots=True)
class CacheDiagnostics:
    """broken_links: in snapshots, to missing blobs. orphaned_blobs: that no snapshot links to."""

    partial_downloads: tuple[PartialDownload, ...]
    broken_links: tuple[Path, ...]
    orphaned_blobs: tuple[Path, ...]

    @property
    def orphaned_bytes(self) -> int:
        """Bytes of the orphaned blobs."""
        return sum(file_size(path) for path in self.orphaned_blobs)


def diagnose_cache(hub: Path, downloads: Path) -> CacheDiagnostics:
    """Examine the hub's cache and the folder of URL downloads, by names, links, sizes and journals only."""
    partial_downloads = [*_find_partial_downloads("", downloads.rglob("*"))]
    broken_links: list[Path] = []
    orphaned_blobs: list[Path] = []
    for repository, folder in iter_repositories(hub):
        links = [path for path in (folder / "snapshots").rglob("*") if path.is_symlink()]
        broken_links += [link for link in links if not link.exists()]
        linked = {link.resolve() for link in links}
        blobs = sorted((folder / "blobs").glob("*"))
        partial_downloads += _find_partial_downloads(repository, blobs)
        # A blob is named by its sha256 or its git sha1.
        orphaned_blobs += [blob for blob in blobs if len(blob.name) in (40, 64) and blob.resolve() not in linked]
    return CacheDiagnostics(tuple(partial_downloads), tuple(broken_links), tuple(orphaned_blobs))


def _find_partial_downloads(repository: str, files: Iterable[Path]) -> Iterator[PartialDownload]:
    for file in files:
        if file.name.endswith(PART_SUFFIX):
            journal = file.with_name(file.name.removesuffix(PART_SUFFIX) + JOURNAL_SUFFIX)
            yield PartialDownload(repository, file, *(read_progress(journal) or (file_size(file), 0)))
        elif file.name.endswith(".incomplete"):
            # Another program's, which appends.
            yield PartialDownload(repository, file, file_size(file), 0)
