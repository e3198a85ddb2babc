"""Download of one model: lock its files, check its header, fetch what is missing, verify, and put it in place."""

import errno
import hashlib
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from phichat.cancel import CancelToken
from phichat.errors import AmbiguousModelError, DownloadError, HashMismatch, StorageError
from phichat.gguf.header import GgufHeader, merge_headers, read_header, read_header_from
from phichat.models.download.destination import Destination, disk_errors, storage_error
from phichat.models.download.plan import DownloadPlan, PlannedFile
from phichat.models.download.progress import DownloadProgress, PullProgress, VerifyProgress
from phichat.models.download.resume_journal import read_progress
from phichat.models.download.transfer import FileDownload
from phichat.models.local.hash_cache import HashCache, hash_file
from phichat.paths import Paths
from phichat.storage.file_lock import lock_file

_MIN_FREE_BYTES = 64 << 20
"""Bytes of the disk that stay free."""
_STALL_TIMEOUT_S = 30.0
_LOCK_POLL_S = 0.2


class ModelDownload(ExitStack):
    """Download of one model, a context manager. Leaving it releases the files, which keep the bytes received.

    First prepare_files, then fetch_header and questions to the user, then fetch_files.
    """

    def __init__(self, plan: DownloadPlan, paths: Paths, hash_cache: HashCache, cancel: CancelToken) -> None:
        super().__init__()
        self.plan = plan
        self.sha256: dict[Path, str] = {}
        self._paths, self._hash_cache, self._cancel = paths, hash_cache, cancel
        self._downloads: dict[Path, FileDownload] = {}

    @property
    def path(self) -> Path:
        """The file to load; of a split model the first part."""
        return self.plan.files[0].destination.path

    @property
    def missing_bytes(self) -> int:
        """Bytes still to be fetched."""
        return sum(transfer.size - transfer.done_bytes for transfer in self._downloads.values())

    @property
    def is_resumed(self) -> bool:
        """True if an earlier run began it."""
        return any(not transfer.is_new for transfer in self._downloads.values())

    @property
    def is_complete(self) -> bool:
        """True if every file is in its place and verified."""
        return len(self.sha256) == len(self.plan.files)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the files that were received in this run."""
        return sum(transfer.fetched_bytes for transfer in self._downloads.values())

    def prepare_files(self) -> Iterator[PullProgress]:
        """Wait for other processes, verify existing files, and open the partial files of the others.

        A damaged file becomes a partial one. Raises DownloadError.
        """
        for item in self.plan.files:
            destination = item.destination
            # Without the lock, so that a read-only cache serves too.
            digest, existing = self._cached_hash(destination.path, item), None
            if not digest:
                yield from self._acquire_lock(destination, item.remote_file.size)
                existing = next((path for path in (destination.content, destination.path) if path.is_file()), None)
                if existing:
                    digest = yield from self._verify(existing, item)
                    if self._cancel.is_set() and not digest:
                        return
            if digest:
                self.sha256[destination.path] = digest
                self._link_file(item)
                with suppress(OSError):  # left by a run that was killed at its very end
                    destination.partial_file.unlink(missing_ok=True)
                    destination.journal.unlink(missing_ok=True)
            else:
                self._downloads[destination.path] = self._open_download(item, existing)
                self.callback(self._downloads[destination.path].close)

    def fetch_header(self) -> GgufHeader:
        """Return the header of the whole model, fetching what is missing of it. Raises ModelFileError, PhichatError."""
        merged = merge_headers([self._read_file_header(item) for item in self.plan.files])
        if self.plan.quantization and merged.quantization != self.plan.quantization:
            found = merged.quantization or "an unknown quantization"
            next_step = f"If you want it, name the file: {self.plan.origin}/{self.path.name}"
            raise AmbiguousModelError(f"{self.path.name} has {found}, not {self.plan.quantization}", next_step)
        return merged

    def check_disk_space(self) -> None:
        """Raise StorageError if the disk has no room for what is missing."""
        for item in self.plan.files:
            folder = item.destination.partial_file.parent
            if folder.is_dir() and (free := shutil.disk_usage(folder).free) < self.missing_bytes + _MIN_FREE_BYTES:
                needed, found = f"{self.missing_bytes / 1e6:,.0f} MB", f"{free / 1e6:,.0f} MB"
                message = f"{needed} are needed, but the disk of {folder} has only {found} free"
                raise StorageError(message, "Free some space, or set HF_HUB_CACHE to a folder on another disk")

    def discard_new(self) -> None:
        """Delete partial files that this run began."""
        for transfer in self._downloads.values():
            if transfer.is_new:
                transfer.discard()

    def fetch_files(self) -> Iterator[DownloadProgress]:
        """Fetch what is missing, verify it and put it in place. Raises DownloadError and HubError."""
        done_before = self.plan.size - sum(transfer.size for transfer in self._downloads.values())
        for item in self.plan.files:
            if (transfer := self._downloads.get(item.destination.path)) is None:
                continue
            try:
                for step in transfer.run():
                    done = done_before + step.done_bytes
                    yield DownloadProgress(done, self.plan.size, self.fetched_bytes, step.notice)
            except HashMismatch:
                transfer.discard()
                raise
            done_before += transfer.size
            self._finalize(item, transfer)

    def _acquire_lock(self, destination: Destination, total: int) -> Iterator[DownloadProgress]:
        """Acquire the lock that every program holds during a download, yielding the holder's progress."""
        last_seen, stalled_s = None, 0.0
        try:
            destination.lock.parent.mkdir(parents=True, exist_ok=True)
            # The cache may be shared by several users.
            while not self.enter_context(lock_file(destination.lock, _LOCK_POLL_S, mode=0o644)):
                progress = _list_partial_files(destination)
                stalled_s = 0.0 if progress != last_seen else stalled_s + _LOCK_POLL_S
                last_seen = progress
                if stalled_s > _STALL_TIMEOUT_S:
                    message = f"Another program is downloading {destination.path.name} but makes no progress"
                    raise DownloadError(message, "Stop that program, then pull again")
                done, _ = read_progress(destination.journal) or (0, total)
                notice = "" if stalled_s else "Another process is downloading this file. Waiting for it."
                yield DownloadProgress(done, total, 0, notice)
        except OSError as error:
            # Without locks two downloads may write the same file; its hash then shows that.
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP):
                raise storage_error(error, destination.lock.parent, total) from error

    def _cached_hash(self, path: Path, item: PlannedFile) -> str:
        """Return the recorded sha256 of an unchanged file if it is the expected one, else ""."""
        verified = self._hash_cache.get(path)
        expected = item.sha256 or self._hash_cache.get_stale(path)
        return verified.sha256 if verified and verified.sha256 == expected else ""

    def _verify(self, path: Path, item: PlannedFile) -> Generator[PullProgress, None, str]:
        """Read an existing file; return its sha256 if it is the expected file, else ""."""
        if cached_hash := self._cached_hash(path, item):
            return cached_hash
        digest = ""
        for fraction, digest in hash_file(path, self._cancel):  # noqa: B007  (the last one counts)
            yield VerifyProgress(path.name, fraction)
        expected = item.sha256 or ("" if item.git_oid else self._hash_cache.get_stale(path))
        if not digest or (digest != expected if expected else not _matches_git_oid(path, item)):
            return ""
        self._hash_cache.store(path, digest)
        return digest

    def _open_download(self, item: PlannedFile, damaged: Path | None) -> FileDownload:
        destination = item.destination
        if damaged is not None:
            with disk_errors(destination.partial_file.parent):
                self._hash_cache.remove_entry(damaged)
                destination.partial_file.parent.mkdir(parents=True, exist_ok=True)
                damaged.replace(destination.partial_file)
                destination.journal.unlink(missing_ok=True)
                if destination.chunk_hashes.is_file():
                    shutil.copyfile(destination.chunk_hashes, destination.journal)
        return FileDownload(item)

    def _read_file_header(self, item: PlannedFile) -> GgufHeader:
        if transfer := self._downloads.get(item.destination.path):
            return read_header_from(transfer.read_range, transfer.size, item.remote_file.name)
        return read_header(item.destination.path)

    def _finalize(self, item: PlannedFile, transfer: FileDownload) -> None:
        destination = item.destination
        transfer.sync()
        if not item.sha256 and not _matches_git_oid(destination.partial_file, item):
            transfer.discard()
            raise HashMismatch(f"{item.remote_file.name} does not match its checksum on the hub", "Try again later")
        with disk_errors(destination.partial_file.parent):
            # In this order, a kill in between leaves a complete file and a journal that the next run removes.
            destination.partial_file.replace(destination.content)
            transfer.finish()
        self.sha256[destination.path] = transfer.sha256
        self._link_file(item)
        self._hash_cache.store(destination.path, transfer.sha256)

    def _link_file(self, item: PlannedFile) -> None:
        path = item.destination.path
        try:
            if not path.exists():
                item.destination.create_link()
            self.plan.write_ref(self._paths)
        except OSError as error:
            if not path.exists():
                raise storage_error(error, path.parent) from error


def _list_partial_files(destination: Destination) -> object:
    """Return a value that changes while any program downloads the file."""
    with suppress(OSError):
        files = sorted(destination.content.parent.glob(f"{destination.content.name}*"))
        return [(file, file.stat().st_size, file.stat().st_mtime) for file in files]
    return None


def _matches_git_oid(path: Path, item: PlannedFile) -> bool:
    """Return whether the file has the git object id that the hub states, if it states one."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    if item.git_oid:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return item.git_oid in ("", digest.hexdigest())


def repair_files(plan: DownloadPlan, paths: Paths, hashes: HashCache, cancel: CancelToken) -> Iterator[PullProgress]:
    """Verify the files of a plan and fetch them again, only the damaged chunks where these are known.

    A damaged file never stays where a load would find it. Raises DownloadError and HubError.
    """
    with ModelDownload(plan, paths, hashes, cancel) as download:
        for item in plan.files:
            # A recorded hash may be as old as the file; a repair reads the file itself.
            hashes.remove_entry(item.destination.content)
        yield from download.prepare_files()
        if not cancel.is_set():
            download.check_disk_space()
            yield from download.fetch_files()
