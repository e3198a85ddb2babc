"""Where a file that is downloaded stands: in the hub's cache as every tool lays it out, or in phichat's own folder."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from phichat.errors import DownloadError, UsageError
from phichat.models.choose import HubFile
from phichat.models.journal import progress_of
from phichat.models.transfer import Progress, storage_error
from phichat.paths import Paths, write_atomically

PART = ".phichat-part"
"""Another ending than the `.incomplete` of other tools, which take its length for how much of it is there."""
JOURNAL = ".phichat-journal"

_PATIENCE_S = 30.0
_RESERVED = re.compile(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)")


@dataclass(frozen=True, slots=True)
class Destination:
    """The files that belong to one download.

    path: what is loaded. content: the file itself, of which path may be a link. chunks: where the hashes of its
    chunks stay.
    """

    path: Path
    content: Path
    part: Path
    journal: Path
    lock: Path
    chunks: Path

    def link(self) -> None:
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

    def partial(self) -> tuple[int, int] | None:
        """(bytes there, bytes in all) of a download that was begun, None when there is none."""
        return progress_of(self.journal)


def hub_destination(paths: Paths, repository: str, commit: str, file: HubFile) -> Destination:
    """In the cache of the hub: the content in blobs/, under its hash, and a link to it for the commit."""
    name = repository_folder(repository)
    folder, content = paths.models / name, file.sha256 or file.git_oid
    blob = folder / "blobs" / content
    return Destination(
        folder / "snapshots" / commit / file.path,
        blob,
        blob.with_name(content + PART),
        blob.with_name(content + JOURNAL),
        paths.models / ".locks" / name / f"{content}.lock",
        paths.cache / "chunks" / content,
    )


def repository_folder(repository: str) -> str:
    """What the hub's cache calls a repository."""
    return "models--" + repository.replace("/", "--")


def url_destination(paths: Paths, url: str) -> Destination:
    """In phichat's own folder, by host and path of the address; never outside of it. Raises UsageError."""
    parts = urlsplit(url)
    segments = [_safe(unquote(segment)) for segment in parts.path.split("/") if segment not in ("", ".", "..")]
    if not segments or not segments[-1].lower().endswith(".gguf"):
        raise UsageError(f"{url} does not end in .gguf", "give the address of the GGUF file itself")
    if parts.query:
        # Another query may be another file.
        segments[-1] = f"{segments[-1][:-5]}-{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}.gguf"
    own = hashlib.sha256(url.encode()).hexdigest()
    path = paths.downloads.joinpath(_safe(parts.netloc.rpartition("@")[2].replace(":", "_")), *segments)
    return Destination(
        path,
        path,
        path.with_name(path.name + PART),
        path.with_name(path.name + JOURNAL),
        paths.cache / "locks" / f"{own}.lock",
        paths.cache / "chunks" / own,
    )


def _safe(segment: str) -> str:
    """A name that every file system takes for one file of that folder."""
    name = re.sub(r"[^\w.+=@ -]", "_", segment).strip(" ").rstrip(". ").lstrip(".")[-120:]
    return f"_{name}" if not name or _RESERVED.match(name) else name


def note_revision(paths: Paths, repository: str, revision: str, commit: str, *, overrides: bool) -> None:
    """Note in the hub's cache which commit a branch or tag is. Raises OSError."""
    path = paths.models / repository_folder(repository) / "refs" / revision
    if revision != commit and (overrides or not path.exists()):
        write_atomically(path, commit.encode())


def hold(lock: Path, place: Destination, held: ExitStack, total: int) -> Iterator[Progress]:
    """Take the lock into held, telling how far the process is that has it. Raises DownloadError."""
    from filelock import Timeout
    from huggingface_hub.utils._fixes import WeakFileLock

    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        seen, patience = None, 0.0
        while True:
            try:
                held.enter_context(WeakFileLock(lock, timeout=0.2))
                return
            except Timeout:
                now = _signs_of_life(place)
                patience = 0.0 if now != seen else patience + 0.2
                seen = now
            if patience > _PATIENCE_S:
                raise DownloadError(
                    f"Another program holds {place.path.name} and gets no further", "end that program, then pull again"
                )
            done, _ = place.partial() or (0, total)
            yield Progress(
                done, total, 0, "Another process downloads this file; waiting for it." if not patience else ""
            )
    except OSError as why:
        raise storage_error(why, lock.parent, total) from why


def _signs_of_life(place: Destination) -> object:
    """Something that changes while somebody downloads the file, with whatever program."""
    found = []
    with suppress(OSError):
        for file in place.content.parent.glob(f"{place.content.name}*"):
            state = file.stat()
            found.append((file.name, state.st_size, state.st_mtime))
    return sorted(found)
