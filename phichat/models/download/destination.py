"""Files of one download: in the hub's cache as every program lays it out, or in phichat's own folder."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from phichat.errors import UsageError
from phichat.models.download.file_selection import HubFile
from phichat.models.hub_layout import repository_folder
from phichat.paths import Paths

PART_SUFFIX = ".phichat-part"
"""Not the `.incomplete` of other programs, which take the length of the file for the bytes present."""
JOURNAL_SUFFIX = ".phichat-journal"

_RESERVED_NAMES = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Destination:
    """Files that belong to one download.

    path: the file to load, which may be a link to content. chunk_hashes: where the journal goes after the download.
    """

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
    folder, content = repository_folder(paths.models, repository), file.sha256 or file.git_oid
    blob = folder / "blobs" / content
    return Destination(
        folder / "snapshots" / commit / file.path,
        blob,
        blob.with_name(content + PART_SUFFIX),
        blob.with_name(content + JOURNAL_SUFFIX),
        paths.models / ".locks" / folder.name / f"{content}.lock",
        paths.cache / "chunks" / content,
    )


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
    return Destination(
        path,
        path,
        path.with_name(path.name + PART_SUFFIX),
        path.with_name(path.name + JOURNAL_SUFFIX),
        paths.cache / "locks" / f"{url_hash}.lock",
        paths.cache / "chunks" / url_hash,
    )


def _safe_filename(segment: str) -> str:
    """Return a name that on every file system is one file in its folder."""
    name = re.sub(r"[^\w.+=@ -]", "_", segment).strip(" ").rstrip(". ").lstrip(".")[-120:]
    return f"_{name}" if not name or _RESERVED_NAMES.match(name) else name
