"""Where a file that is downloaded stands: in the hub's cache as every tool lays it out, or in phichat's own folder."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from phichat.errors import DownloadError, UsageError
from phichat.models.download.file_selection import HubFile
from phichat.models.download.resume_journal import read_progress
from phichat.models.download.transfer import DownloadProgress, storage_error
from phichat.paths import Paths
from phichat.storage.file_lock import lock_file

PART_SUFFIX = ".phichat-part"
"""Another ending than the `.incomplete` of other tools, which take its length for how much of it is there."""
JOURNAL_SUFFIX = ".phichat-journal"

_STALL_TIMEOUT_S = 30.0
_LOCK_POLL_S = 0.2
_LOCKS_UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_RESERVED_NAMES = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Destination:
    """The files that belong to one download.

    path: what is loaded. content: the file itself, of which path may be a link. chunks: where the hashes of its
    chunks stay.
    """

    path: Path
    content: Path
    partial_file: Path
    journal: Path
    lock: Path
    chunk_hashes: Path

    def create_link(self) -> None:
        """Put a link to the content at path; where there are no links, the content itself. Raises OSError."""
        if self.path == self.content:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        try:
            self.path.symlink_to(os.path.relpath(self.content, self.path.parent))
        except OSError:
            # Windows without the right to make links: the library keeps the file itself there too.
            self.content.replace(self.path)

    def read_partial_progress(self) -> tuple[int, int] | None:
        """(bytes there, bytes in all) of a download that was begun, None when there is none."""
        return read_progress(self.journal)


def hub_destination(paths: Paths, repository: str, commit: str, file: HubFile) -> Destination:
    """In the cache of the hub: the content in blobs/, under its hash, and a link to it for the commit."""
    name = repository_folder(repository)
    folder, content = paths.models / name, file.sha256 or file.git_oid
    blob = folder / "blobs" / content
    return Destination(
        folder / "snapshots" / commit / file.path,
        blob,
        blob.with_name(content + PART_SUFFIX),
        blob.with_name(content + JOURNAL_SUFFIX),
        paths.models / ".locks" / name / f"{content}.lock",
        paths.cache / "chunks" / content,
    )


def repository_folder(repository: str) -> str:
    """What the hub's cache calls a repository."""
    return "models--" + repository.replace("/", "--")


def url_destination(paths: Paths, url: str) -> Destination:
    """In phichat's own folder, by host and path of the address; never outside of it. Raises UsageError."""
    parts = urlsplit(url)
    segments = [_safe_filename(unquote(segment)) for segment in parts.path.split("/") if segment not in ("", ".", "..")]
    if not segments or not segments[-1].lower().endswith(".gguf"):
        raise UsageError(f"{url} does not end in .gguf", "Give the address of the GGUF file itself")
    if parts.query:
        # Another query may be another file.
        segments[-1] = f"{segments[-1][:-5]}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}.gguf"
    url_hash = hashlib.sha256(url.encode()).hexdigest()
    path = paths.downloads.joinpath(_safe_filename(parts.netloc.rpartition("@")[2].replace(":", "_")), *segments)
    return Destination(
        path,
        path,
        path.with_name(path.name + PART_SUFFIX),
        path.with_name(path.name + JOURNAL_SUFFIX),
        paths.cache / "locks" / f"{url_hash}.lock",
        paths.cache / "chunks" / url_hash,
    )


def _safe_filename(segment: str) -> str:
    """A name that every file system takes for one file of that folder."""
    name = re.sub(r"[^\w.+=@ -]", "_", segment).strip(" ").rstrip(". ").lstrip(".")[-120:]
    return f"_{name}" if not name or _RESERVED_NAMES.match(name) else name


def write_ref(paths: Paths, repository: str, revision: str, commit: str, *, overwrite: bool) -> None:
    """Note in the hub's cache which commit a branch or tag is. Raises OSError."""
    path = paths.models / repository_folder(repository) / "refs" / revision
    if revision != commit and (overwrite or not path.exists()):
        # The cache may be shared by several users: no file of it is private.
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        part.write_text(commit)
        part.replace(path)


def acquire_lock(lock: Path, destination: Destination, locks: ExitStack, total: int) -> Iterator[DownloadProgress]:
    """Enter the lock into locks, yielding the progress of the process that holds it. Raises DownloadError.

    lock: the file that other programs lock too while they download into the hub's cache.
    """
    last_seen, stalled_s = None, 0.0
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        # The cache may be shared by several users.
        while not locks.enter_context(lock_file(lock, _LOCK_POLL_S, mode=0o644)):
            progress = _list_partial_files(destination)
            stalled_s = 0.0 if progress != last_seen else stalled_s + _LOCK_POLL_S
            last_seen = progress
            if stalled_s > _STALL_TIMEOUT_S:
                raise DownloadError(
                    f"Another program is downloading {destination.path.name} but is making no progress",
                    "Stop that program, then pull again",
                )
            done, _ = destination.read_partial_progress() or (0, total)
            notice = "" if stalled_s else "Another process is downloading this file. Waiting for it."
            yield DownloadProgress(done, total, 0, notice)
    except OSError as error:
        # Without locks two downloads may write the same file: its hash then shows it.
        if error.errno not in _LOCKS_UNSUPPORTED:
            raise storage_error(error, lock.parent, total) from error


def _list_partial_files(destination: Destination) -> object:
    """Return a value that changes while any program downloads the file."""
    with suppress(OSError):
        files = sorted(destination.content.parent.glob(f"{destination.content.name}*"))
        return [(file, file.stat().st_size, file.stat().st_mtime) for file in files]
    return None
