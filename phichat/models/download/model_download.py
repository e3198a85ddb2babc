"""Pulling a model: hold its files, look into its header, fetch what is missing, prove it, put it in its place."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.errors import AmbiguousModelError, HashMismatch, StorageError
from phichat.gguf.header import GgufHeader, read_header, read_header_from
from phichat.models.download.destination import acquire_lock
from phichat.models.download.plan import DownloadPlan, PlannedFile
from phichat.models.download.transfer import DownloadProgress, FileDownload, storage_error
from phichat.models.local.hash_cache import CancelSignal, HashCache, hash_file
from phichat.paths import Paths

_MIN_FREE_BYTES = 64 << 20
"""Bytes of the disk that stay free."""


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """A file that is there already is read whole; fraction from 0 to 1."""

    name: str
    fraction: float


PullProgress = DownloadProgress | VerifyProgress


class ModelDownload:
    """One model on its way. As a context manager it lets go of the files, which stay as far as they came.

    First `prepare`, then `header` and what else has to be asked, then `fetch`.
    """

    def __init__(self, plan: DownloadPlan, paths: Paths, hash_cache: HashCache, cancel: CancelSignal) -> None:
        self.plan = plan
        self.sha256: dict[Path, str] = {}
        self._paths, self._hash_cache, self._cancel = paths, hash_cache, cancel
        self._locks = ExitStack()
        self._downloads: dict[Path, FileDownload] = {}

    def __enter__(self) -> ModelDownload:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for transfer in self._downloads.values():
            transfer.close()
        self._locks.close()

    @property
    def path(self) -> Path:
        """The file to load; of a split model the first part."""
        return self.plan.files[0].destination.path

    @property
    def missing_bytes(self) -> int:
        """Bytes that have to come."""
        return sum(transfer.size - transfer.done_bytes for transfer in self._downloads.values())

    @property
    def is_resumed(self) -> bool:
        """Whether an earlier run has begun it."""
        return any(not transfer.is_new for transfer in self._downloads.values())

    @property
    def is_complete(self) -> bool:
        """Whether every file is in its place and proven."""
        return len(self.sha256) == len(self.plan.files)

    @property
    def fetched_bytes(self) -> int:
        """Bytes of the files that have come over the network in this run."""
        return sum(transfer.fetched_bytes for transfer in self._downloads.values())

    def prepare_files(self) -> Iterator[PullProgress]:
        """Wait for other processes, prove what is there, begin or take up what is not.

        A file that is there and is not what it has to be becomes a partial download. Raises DownloadError.
        """
        for item in self.plan.files:
            if cached_hash := self._cached_hash(item.destination.path, item):
                # Without the lock, so that a cache that may only be read serves as well.
                self.sha256[item.destination.path] = cached_hash
                self._link_file(item)
                _remove_leftovers(item)
                continue
            yield from acquire_lock(item.destination.lock, item.destination, self._locks, item.remote_file.size)
            is_damaged = False
            if existing := _existing_file(item):
                digest = yield from self._verify(existing, item)
                if digest:
                    self.sha256[item.destination.path] = digest
                    self._link_file(item)
                    _remove_leftovers(item)
                    continue
                if self._cancel.is_set():
                    return
                is_damaged = True
            self._downloads[item.destination.path] = self._open_download(item, existing if is_damaged else None)

    def fetch_header(self) -> GgufHeader:
        """The header of the whole model, fetched as far as it is not there. Raises ModelFileError, PhichatError."""
        headers = [self._read_file_header(item) for item in self.plan.files]
        tensors = tuple(tensor for header in headers for tensor in header.tensors)
        merged = replace(headers[0], tensors=tensors, file_size=sum(header.file_size for header in headers))
        if self.plan.quantization and merged.quantization != self.plan.quantization:
            raise AmbiguousModelError(
                f"{self.path.name} is {merged.quantization or 'of an unknown quantization'}, "
                f"not {self.plan.quantization}",
                f"Name the file if that is what you want, as in {self.plan.origin}/{self.path.name}",
            )
        return merged

    def check_disk_space(self) -> None:
        """Raises StorageError when the disk has no room for what is missing."""
        for item in self.plan.files:
            folder = item.destination.partial_file.parent
            if folder.is_dir() and (free := shutil.disk_usage(folder).free) < self.missing_bytes + _MIN_FREE_BYTES:
                raise StorageError(
                    f"{self.missing_bytes / 1e6:,.0f} MB are to come and the disk of {folder} has {free / 1e6:,.0f} MB free",
                    "Free some space, or set HF_HUB_CACHE to a folder on another disk",
                )

    def discard_new(self) -> None:
        """The user does not want it: what was fetched only to look at it goes."""
        for transfer in self._downloads.values():
            if transfer.is_new:
                transfer.discard()

    def fetch_files(self) -> Iterator[DownloadProgress]:
        """Fetch what is missing, prove it and put it in its place. Raises DownloadError and HubError."""
        total = sum(item.remote_file.size for item in self.plan.files)
        done_before = total - sum(transfer.size for transfer in self._downloads.values())
        for item in self.plan.files:
            transfer = self._downloads.get(item.destination.path)
            if transfer is None:
                continue
            try:
                for progress in transfer.run():
                    yield replace(
                        progress,
                        done_bytes=done_before + progress.done_bytes,
                        total_bytes=total,
                        fetched_bytes=self.fetched_bytes,
                    )
            except HashMismatch:
                transfer.discard()
                raise
            done_before += transfer.size
            self._finalize(item, transfer)

    def _cached_hash(self, path: Path, item: PlannedFile) -> str:
        """The sha256 that the file is known to have, if it is what it has to be; else ""."""
        verified = self._hash_cache.get(path)
        return (
            verified.sha256 if verified and verified.sha256 == (item.sha256 or self._hash_cache.get_stale(path)) else ""
        )

    def _verify(self, path: Path, item: PlannedFile) -> Generator[PullProgress, None, str]:
        """Returns the sha256 of a file that is what it has to be, else ""."""
        if cached_hash := self._cached_hash(path, item):
            return cached_hash
        expected = item.sha256 or ("" if item.git_oid else self._hash_cache.get_stale(path))
        hashing = hash_file(path, self._cancel)
        while True:
            try:
                yield VerifyProgress(path.name, next(hashing))
            except StopIteration as done:
                digest: str = done.value
                break
        if (
            not digest
            or (expected and digest != expected)
            or (item.git_oid and not expected and not _matches_git_oid(path, item))
        ):
            return ""
        self._hash_cache.store(path, digest)
        return digest

    def _open_download(self, item: PlannedFile, damaged: Path | None) -> FileDownload:
        destination = item.destination
        try:
            if damaged is not None:
                self._hash_cache.remove(damaged)
                destination.partial_file.parent.mkdir(parents=True, exist_ok=True)
                damaged.replace(destination.partial_file)
                destination.journal.unlink(missing_ok=True)
                if destination.chunk_hashes.is_file():
                    shutil.copyfile(destination.chunk_hashes, destination.journal)
        except OSError as error:
            raise storage_error(error, destination.partial_file.parent) from error
        return FileDownload(
            destination.partial_file,
            destination.journal,
            item.remote_file,
            identity=item.identity,
            expected_sha256=item.sha256,
        )

    def _read_file_header(self, item: PlannedFile) -> GgufHeader:
        transfer = self._downloads.get(item.destination.path)
        if transfer is None:
            return read_header(item.destination.path)
        return read_header_from(transfer.read_range, transfer.size, item.remote_file.name)

    def _finalize(self, item: PlannedFile, transfer: FileDownload) -> None:
        destination = item.destination
        transfer.sync()
        if item.git_oid and not item.sha256 and not _matches_git_oid(destination.partial_file, item):
            transfer.discard()
            raise HashMismatch(f"{item.remote_file.name} is not what the hub says it is", "Try again later")
        try:
            # In this order a kill in between leaves a whole file, and notes that the next run clears away.
            destination.partial_file.replace(destination.content)
            transfer.finish(destination.chunk_hashes)
        except OSError as error:
            raise storage_error(error, destination.partial_file.parent) from error
        self.sha256[destination.path] = transfer.sha256
        self._link_file(item)
        self._hash_cache.store(destination.path, transfer.sha256)

    def _link_file(self, item: PlannedFile) -> None:
        try:
            if not item.destination.path.exists():
                item.destination.create_link()
            self.plan.write_ref(self._paths)
        except OSError as error:
            if not item.destination.path.exists():
                raise storage_error(error, item.destination.path.parent) from error


def _existing_file(item: PlannedFile) -> Path | None:
    """The file where it belongs, of whatever content."""
    return next((path for path in (item.destination.content, item.destination.path) if path.is_file()), None)


def _remove_leftovers(item: PlannedFile) -> None:
    """What a run that was killed at its very end has left beside the finished file."""
    with suppress(OSError):
        item.destination.partial_file.unlink(missing_ok=True)
        item.destination.journal.unlink(missing_ok=True)


def _matches_git_oid(path: Path, item: PlannedFile) -> bool:
    """Whether git would give the content the name that the hub gives it."""
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == item.git_oid


def repair_files(
    plan: DownloadPlan, paths: Paths, hash_cache: HashCache, cancel: CancelSignal
) -> Iterator[PullProgress]:
    """Make the files of a target what they have to be, fetching only what is damaged where that is known.

    Whatever happens, no damaged file stays where a load would find it. Raises DownloadError and HubError.
    """
    with ModelDownload(plan, paths, hash_cache, cancel) as download:
        for item in plan.files:
            # A proof is only as old as the file; here the file itself is read.
            hash_cache.remove(item.destination.content)
        yield from download.prepare_files()
        if not cancel.is_set():
            download.check_disk_space()
            yield from download.fetch_files()
