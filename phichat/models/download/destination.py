"""Files of one download: in the hub's cache as every program lays it out, or in phichat's own folder.

Also the reads and writes of partial files, and the errors of their disk.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from phichat.errors import StorageError, UsageError
from phichat.models.download.file_selection import HubFile
from phichat.models.hub_layout import repository_folder
from phichat.paths import Paths

PART_SUFFIX = ".phichat-part"
"""Not the `.incomplete` of other programs, which take the length of the file for the bytes present."""
JOURNAL_SUFFIX = ".phichat-journal"

_RESERVED_NAMES = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Destination:
    """Files of one download. path: to load, perhaps a link to content. chunk_hashes: the journal after the download."""

    path: Path
    content: Path
    partial_file: Path
    journal: Path
    lock: Path
    chunk_hashes: Path

    def create_link(self) -> None:
        """Link path to the content; where links are not possible, move the content there. Raises OSError."""
        if self.path == self.content:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        try:
            self.path.symlink_to(os.path.relpath(self.content, self.path.parent))
        except OSError:
            # Windows without the right to make links: huggingface_hub moves the file there too.
            self.content.replace(self.path)


def hub_destination(paths: Paths, repository: str, commit: str, file: HubFile) -> Destination:
    """Return the files in the hub's cache: the content in blobs/ under its hash, and a link to it in the commit."""
    folder, blob_name = repository_folder(paths.models, repository), file.sha256 or file.git_oid
    path, lock = folder / "snapshots" / commit / file.path, paths.models / ".locks" / folder.name / f"{blob_name}.lock"
    return _build_destination(path, folder / "blobs" / blob_name, lock, paths.cache / "chunks" / blob_name)


def url_destination(paths: Paths, url: str) -> Destination:
    """Return the files in phichat's own folder, by host and path of the URL. Raises UsageError."""
    parts = urlsplit(url)
    segments = [_safe_filename(unquote(segment)) for segment in parts.path.split("/") if segment not in ("", ".", "..")]
    if not segments or not segments[-1].lower().endswith(".gguf"):
        raise UsageError(f"{url} does not end in .gguf", "Give the URL of the GGUF file itself")
    if parts.query:
        # A different query may be a different file.
        segments[-1] = f"{segments[-1][:-5]}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}.gguf"
    url_hash = hashlib.sha256(url.encode()).hexdigest()
    path = paths.downloads.joinpath(_safe_filename(parts.netloc.rpartition("@")[2].replace(":", "_")), *segments)
    return _build_destination(path, path, paths.cache / "locks" / f"{url_hash}.lock", paths.cache / "chunks" / url_hash)


def _build_destination(path: Path, content: Path, lock: Path, chunk_hashes: Path) -> Destination:
    partial_file, journal = (content.with_name(content.name + suffix) for suffix in (PART_SUFFIX, JOURNAL_SUFFIX))
    return Destination(path, content, partial_file, journal, lock, chunk_hashes)


def _safe_filename(segment: str) -> str:
    """Return a name that on every file system is one file in its folder."""
    name = re.sub(r"[^\w.+=@ -]", "_", segment).strip(" ").rstrip(". ").lstrip(".")[-120:]
    return f"_{name}" if not name or _RESERVED_NAMES.match(name) else name


def hash_range(file: io.FileIO, offset: int, length: int, hasher: hashlib._Hash, buffer: bytearray) -> bool:
    """Feed the hasher with a range; False if the file ends before it."""
    file.seek(offset)
    view = memoryview(buffer)
    while length:
        count = file.readinto(view[: min(length, len(buffer))])
        if not count:
            return False
        hasher.update(view[:count])
        length -= count
    return True


def write_at(file: io.FileIO, offset: int, data: memoryview) -> None:
    """Write all of the data. Raises OSError."""
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


@contextmanager
def disk_errors(folder: Path, missing: int = 0) -> Iterator[None]:
    """Raise StorageError for an OSError; see storage_error."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, folder, missing) from error


def storage_error(error: OSError, folder: Path, missing: int = 0) -> StorageError:
    """Return the error for an OSError about a folder. missing: bytes that are still to be written."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            problem = f"The disk of {folder} is full; {missing / 1e6:,.0f} MB are still needed"
            return StorageError(problem, "Free some space, then pull again to resume")
        case errno.EFBIG:
            next_step = "Set HF_HUB_CACHE to a folder on another disk"
            return StorageError(f"Files in {folder} cannot be this large", next_step)
        case errno.EROFS | errno.EACCES | errno.EPERM:
            next_step = "Change its permissions, or set HF_HUB_CACHE to another folder"
            return StorageError(f"{folder} is not writable", next_step)
    return StorageError(f"{folder} cannot be written ({error.strerror})", "Check the disk it is on")
