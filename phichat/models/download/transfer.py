"""The transfer of one file: workers fetch what is missing, one thread hashes what is there, both at once.

The hash follows the workers through the file and reads back what they wrote, so that it costs the same whether
the bytes came now or in an earlier run, and sees what the disk has made of them. Where an earlier run has left the
hash of a shorter piece of the file (`journal`), damage is found at once and in its chunk, and only that is fetched
again. Where only the hash of the whole is wrong, every chunk is fetched until two fetches of it agree.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from phichat.errors import DownloadError, HashMismatch, PhichatError, StorageError
from phichat.models.download.remote_file import TRY_AGAIN, RemoteFile, TransferInterrupted
from phichat.models.download.resume_journal import CHUNK_BYTES, NOT_HASHED, ResumeJournal

_MAX_CONNECTIONS = 4
_MAX_CHUNKS_PER_REQUEST = 8
"""Chunks in one request at most."""
_PARALLEL_MIN_BYTES = 64 << 20
"""Bytes that have to be missing for more than one connection."""
_SINGLE_CONNECTION_RATE = 150e6
"""Bytes a second of one connection that more of them would hardly improve."""
_MEASURE_AFTER_S = 1.5
_MAX_ATTEMPTS = 8
_MAX_REFETCHES = 5
_MAX_BACKOFF_S = 20.0
_MAX_RETRY_AFTER_S = 300.0
_PROGRESS_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 1.0
_BUFFER_BYTES = 1 << 20
_MIN_READ = 1 << 20
"""Bytes that are fetched at once where fewer are asked for."""


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes that are there, of how many; how many came over the network in this run. notice: news, else ""."""

    done_bytes: int
    total_bytes: int
    fetched_bytes: int
    notice: str = ""


class FileDownload:
    """A partial file and its journal, until it is whole and proven. One process at a time may hold it.

    part: where the bytes go. identity: see `Journal`. sha256: what the file has to be, "" where nobody has said.
    Raises StorageError.
    """

    def __init__(
        self, partial_file: Path, journal: Path, remote_file: RemoteFile, *, identity: str, expected_sha256: str
    ) -> None:
        self._partial_file, self._remote_file, self._expected_sha256 = partial_file, remote_file, expected_sha256
        try:
            partial_file.parent.mkdir(parents=True, exist_ok=True)
            if journal.is_file() and not partial_file.is_file():
                journal.unlink()
            self._journal = ResumeJournal(journal, remote_file.size, identity)
            self.is_new = self._journal.is_new
            partial_file.open("ab").close()
        except OSError as error:
            raise storage_error(error, partial_file.parent, remote_file.size) from error
        self.sha256 = ""
        self.fetched_bytes = 0
        self._condition = threading.Condition()
        self._claimed_chunks: set[int] = set()
        self._refetch_digests: dict[int, set[bytes]] | None = None
        self._stop_event = threading.Event()
        self._failure: PhichatError | None = None
        self._notices: list[str] = []
        self._threads: list[threading.Thread] = []

    @property
    def done_bytes(self) -> int:
        """Bytes that are there."""
        return self._journal.bytes_written

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._journal.size

    def read_range(self, offset: int, length: int) -> bytes:
        """Bytes of the file, fetched into the part if they are not there yet. Raises PhichatError."""
        stop = min(offset + length, self.size)
        for chunk in range(offset // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
            chunk_stop = min(max(stop - chunk * CHUNK_BYTES, _MIN_READ), self._journal.chunk_length(chunk))
            self._with_retries(partial(self._fetch_range, chunk, chunk * CHUNK_BYTES + chunk_stop))
        try:
            with self._partial_file.open("rb") as file:
                file.seek(offset)
                return file.read(stop - offset)
        except OSError as error:
            raise self._storage_error(error) from error

    def run(self) -> Iterator[DownloadProgress]:
        """Fetch what is missing, telling how far it is about ten times a second; then `sha256` is proven.

        To close the iterator ends the transfer, and what came is kept. Raises DownloadError and what the
        source raises.
        """
        try:
            self._start_thread(self._hash_all)
            self._start_thread(self._fetch_loop)
            started, reported_at, is_measured = time.monotonic(), 0.0, False
            while any(thread.is_alive() for thread in self._threads):
                with self._condition:
                    self._condition.wait(_PROGRESS_INTERVAL_S)
                    notices, self._notices = self._notices, []
                for notice in notices:
                    yield DownloadProgress(self.done_bytes, self.size, self.fetched_bytes, notice)
                now = time.monotonic()
                if now - reported_at > _PROGRESS_INTERVAL_S:
                    reported_at = now
                    with suppress(OSError):
                        self._journal.heartbeat()
                    yield DownloadProgress(self.done_bytes, self.size, self.fetched_bytes)
                if not is_measured and now - started > _MEASURE_AFTER_S:
                    is_measured = True
                    if self._should_parallelize(now - started):
                        for _ in range(_MAX_CONNECTIONS - 1):
                            self._start_thread(self._fetch_loop)
            if self._failure is not None:
                raise self._failure
            if not self.sha256:
                raise DownloadError("The download stopped for a reason that phichat does not know", TRY_AGAIN)
            yield DownloadProgress(self.done_bytes, self.size, self.fetched_bytes)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the threads. What came is kept."""
        self._stop_event.set()
        with self._condition:
            self._condition.notify_all()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def finish(self, chunk_hashes: Path) -> None:
        """The part was moved to its place: the journal goes to where a repair finds it."""
        self._journal.close()
        try:
            chunk_hashes.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            chunk_hashes.write_bytes(self._journal.path.read_bytes())
        except OSError:
            # Without it a repair fetches the whole file.
            chunk_hashes.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files, which stay."""
        self.stop()
        self._journal.close()

    def discard(self) -> None:
        """Nothing of it is worth keeping."""
        self.close()
        self._partial_file.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until the disk has it. Raises StorageError."""
        try:
            with self._partial_file.open("r+b") as file:
                file.truncate(self.size)
                os.fsync(file.fileno())
        except OSError as error:
            raise self._storage_error(error) from error

    # Threads

    def _start_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._run_worker, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run_worker(self, work: Callable[[], None]) -> None:
        is_done = False
        try:
            work()
            is_done = True
        except (PhichatError, OSError) as error:
            with self._condition:
                if self._failure is None:
                    self._failure = error if isinstance(error, PhichatError) else self._storage_error(error)
        finally:
            if not is_done:
                # Whatever it died of, nobody may wait for it.
                self._stop_event.set()
            with self._condition:
                self._condition.notify_all()

    def _should_parallelize(self, elapsed_s: float) -> bool:
        """Whether several connections may fetch the rest faster than one."""
        missing = self.size - self.done_bytes
        return (
            self._remote_file.supports_ranges is True
            and missing > _PARALLEL_MIN_BYTES
            and 0 < self.fetched_bytes < _SINGLE_CONNECTION_RATE * elapsed_s
        )

    def _fetch_loop(self) -> None:
        """Fetch chunks until all are there and proven."""
        while not self._stop_event.is_set():
            claim = self._claim_chunks()
            if claim is None:
                return
            first, last = claim
            try:
                if self._refetch_digests is not None:
                    self._refetch_until_stable(first)
                else:
                    end = last * CHUNK_BYTES + self._journal.chunk_length(last)
                    self._with_retries(partial(self._fetch_range, first, end))
            finally:
                with self._condition:
                    self._claimed_chunks.difference_update(range(first, last + 1))
                    self._condition.notify_all()

    def _claim_chunks(self) -> tuple[int, int] | None:
        """First and last of a run of chunks that this thread shall see to; None when all are proven."""
        with self._condition:
            while not self._stop_event.is_set() and not self.sha256:
                needed = (chunk for chunk in range(self._journal.chunk_count) if self._needs_fetch(chunk))
                first = next(needed, None)
                if first is not None:
                    last = first
                    limit = 1 if self._refetch_digests is not None else _MAX_CHUNKS_PER_REQUEST
                    while (
                        last + 1 < self._journal.chunk_count
                        and last + 1 - first < limit
                        and self._needs_fetch(last + 1)
                    ):
                        last += 1
                    self._claimed_chunks.update(range(first, last + 1))
                    return first, last
                self._condition.wait(0.5)
        return None

    def _needs_fetch(self, chunk: int) -> bool:
        if chunk in self._claimed_chunks:
            return False
        if self._refetch_digests is not None:
            return chunk not in self._refetch_digests
        return not self._journal.is_complete(chunk)

    def _with_retries(self, fetch: Callable[[], None]) -> None:
        """Call fetch until it returns; give up when nothing comes for several attempts."""
        failures = 0
        while not self._stop_event.is_set():
            before = self.done_bytes
            try:
                fetch()
                return
            except TransferInterrupted as error:
                failures = 1 if self.done_bytes > before else failures + 1
                if error.ignores_ranges and failures > 2:
                    self._remote_file.supports_ranges = False
                if failures >= _MAX_ATTEMPTS:
                    raise DownloadError(f"The download stopped: {error.reason}", TRY_AGAIN) from None
                if error.wait_s > _MAX_RETRY_AFTER_S:
                    raise DownloadError(
                        f"The download stopped: the server asks to wait {error.wait_s / 60:.0f} minutes", TRY_AGAIN
                    ) from None
                wait = max(error.wait_s, min(0.25 * 2**failures, _MAX_BACKOFF_S) * random.uniform(0.5, 1.0))
                if wait > 1:
                    self._notify(f"{error.reason}; going on in {wait:.0f} s")
                self._stop_event.wait(wait)

    def _notify(self, notice: str) -> None:
        with self._condition:
            self._notices.append(notice[0].upper() + notice[1:] + ".")
            self._condition.notify_all()

    def _fetch_range(self, chunk: int, stop: int) -> None:
        """Fetch from the first missing byte of the chunk to stop. Raises Interrupted."""
        start = chunk * CHUNK_BYTES + self._journal.chunk_bytes_written(chunk)
        if start >= stop:
            return
        with self._partial_file.open("r+b", buffering=0) as file:
            for offset, data in self._remote_file.iter_range(start, stop):
                if self._stop_event.is_set():
                    return
                with self._condition:
                    self.fetched_bytes += len(data)
                self._write_chunk_data(file, offset, data)
        checked = chunk
        while checked * CHUNK_BYTES < stop:
            if self._journal.chunk_bytes_written(checked) < min(
                stop - checked * CHUNK_BYTES, self._journal.chunk_length(checked)
            ):
                raise TransferInterrupted("the connection was closed early")
            checked += 1

    def _write_chunk_data(self, file: io.FileIO, offset: int, data: bytes) -> None:
        """Write what of the piece continues a chunk."""
        view = memoryview(data)
        while view:
            chunk = offset // CHUNK_BYTES
            chunk_left = CHUNK_BYTES - offset % CHUNK_BYTES
            segment, view = view[:chunk_left], view[chunk_left:]
            start, end = offset - chunk * CHUNK_BYTES, offset - chunk * CHUNK_BYTES + len(segment)
            written = self._journal.chunk_bytes_written(chunk)
            if start <= written < end:
                _write_all(file, chunk * CHUNK_BYTES + written, segment[written - start :])
                with self._condition:
                    self._journal.record_written(chunk, end)
                    if self._journal.is_complete(chunk):
                        self._condition.notify_all()
            offset += len(segment)

    def _refetch_until_stable(self, chunk: int) -> None:
        """Fetch a chunk until two fetches of it agree."""
        assert self._refetch_digests is not None
        digests = {self._chunk_digest(chunk)}
        while not self._stop_event.is_set() and chunk not in self._refetch_digests:
            if len(digests) > _MAX_REFETCHES:
                raise self._mismatch_error()
            with self._condition:
                self._journal.record_written(chunk, 0)
            end = chunk * CHUNK_BYTES + self._journal.chunk_length(chunk)
            self._with_retries(partial(self._fetch_range, chunk, end))
            digest = self._chunk_digest(chunk)
            with self._condition:
                if digest in digests:
                    self._refetch_digests[chunk] = digests
            digests.add(digest)

    def _chunk_digest(self, chunk: int) -> bytes:
        with self._partial_file.open("rb", buffering=0) as file:
            file.seek(chunk * CHUNK_BYTES)
            return hashlib.sha256(file.read(self._journal.chunk_length(chunk))).digest()

    def _storage_error(self, error: OSError) -> StorageError:
        return storage_error(error, self._partial_file.parent, self.size - self.done_bytes)

    # Hashing

    def _hash_all(self) -> None:
        """Follow the workers through the file; set sha256 when it is proven. Raises HashMismatch."""
        for is_second in (False, True):
            digest = self._hash_file()
            if digest is None:
                return
            if self._expected_sha256 in ("", digest):
                with self._condition:
                    self.sha256 = digest
                return
            if is_second:
                raise self._mismatch_error()
            self._notify("what came is damaged; fetching it again to find where")
            with self._condition:
                self._journal.clear_digests()
                self._refetch_digests = {}
                self._condition.notify_all()

    def _hash_file(self) -> str | None:
        """The hash of the whole file; None when the transfer was stopped."""
        hasher, buffer = hashlib.sha256(), bytearray(_BUFFER_BYTES)
        refetched = -1
        with self._partial_file.open("rb", buffering=0) as file:
            chunk = 0
            while chunk < self._journal.chunk_count:
                if not self._wait_for_chunk(chunk):
                    return None
                next_hasher = hasher.copy()
                is_readable = _hash_chunk(
                    file, chunk * CHUNK_BYTES, self._journal.chunk_length(chunk), next_hasher, buffer
                )
                known, digest = self._journal.get_digest(chunk), next_hasher.digest()
                with self._condition:
                    if is_readable and known in (NOT_HASHED, digest):
                        if known == NOT_HASHED:
                            self._journal.record_digest(chunk, digest)
                    elif is_readable and refetched == chunk:
                        # It came twice like this: what is noted was damaged before it was hashed.
                        self._journal.clear_digests(chunk)
                        self._journal.record_digest(chunk, digest)
                    else:
                        refetched = chunk
                        self._journal.record_written(chunk, 0)
                        self._condition.notify_all()
                        continue
                hasher = next_hasher
                chunk += 1
        return hasher.hexdigest()

    def _wait_for_chunk(self, chunk: int) -> bool:
        """Until the chunk is there; whether it is."""
        with self._condition:
            while not self._stop_event.is_set():
                settled = self._refetch_digests is None or chunk in self._refetch_digests
                if settled and self._journal.is_complete(chunk):
                    return True
                self._condition.wait(0.5)
        return False

    def _mismatch_error(self) -> HashMismatch:
        return HashMismatch(
            f"{self._remote_file.name} does not have the sha256 that was promised for it, however often it is fetched",
            "Choose another repository, or try again later; nothing of it was kept",
        )


def _hash_chunk(file: io.FileIO, offset: int, length: int, hasher: hashlib._Hash, buffer: bytearray) -> bool:
    """Feed the digest with that range; False when the file ends before it does."""
    file.seek(offset)
    view = memoryview(buffer)
    while length:
        count = file.readinto(view[: min(length, len(buffer))])
        if not count:
            return False
        hasher.update(view[:count])
        length -= count
    return True


def _write_all(file: io.FileIO, offset: int, data: memoryview) -> None:
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


def storage_error(error: OSError, folder: Path, missing: int = 0) -> StorageError:
    """The sentence for what the system says about a folder; missing: bytes that are still to be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk of {folder} is full and {missing / 1e6:,.0f} MB of the file are missing",
            "Free some space, then pull again; what came is kept",
        )
    if error.errno == errno.EFBIG:
        return StorageError(f"Files in {folder} may not get this large", "Set HF_HUB_CACHE to a folder elsewhere")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(
            f"{folder} may not be written", "Change its permissions, or set HF_HUB_CACHE to another folder"
        )
    return StorageError(f"{folder} cannot be written ({error.strerror})", "Check the disk it is on")
