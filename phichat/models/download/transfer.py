"""Transfer of one file: threads fetch what is missing while one thread hashes what is there.

The hashing thread follows the others through the file and reads back what they wrote, so that resuming costs no
more, and damage on the disk is seen. Where an earlier run left the hash of a shorter piece of the file (see
ResumeJournal), damage is found at once and only its chunk is fetched again. Where only the hash of the whole is
wrong, every chunk is fetched until two fetches of it agree.
"""

import hashlib
import io
import os
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from phichat.errors import DownloadError, HashMismatch, PhichatError
from phichat.models.download.destination import disk_errors, hash_range, storage_error, write_at
from phichat.models.download.plan import PlannedFile
from phichat.models.download.progress import DownloadProgress
from phichat.models.download.remote_file import TRY_AGAIN, TransferInterrupted
from phichat.models.download.resume_journal import CHUNK_BYTES, NOT_HASHED, ResumeJournal

_MAX_CONNECTIONS = 4
_MAX_CHUNKS_PER_REQUEST = 8
_PARALLEL_MIN_BYTES = 64 << 20
"""Missing bytes that are worth more than one connection."""
_SINGLE_CONNECTION_RATE = 150e6
"""Bytes per second of one connection that more connections would hardly improve."""
_MEASURE_AFTER_S = 1.5
_MAX_ATTEMPTS = 8
_MAX_REFETCHES = 5
_MAX_BACKOFF_S = 20.0
_MAX_RETRY_AFTER_S = 300.0
_PROGRESS_INTERVAL_S = 0.1
_STOP_TIMEOUT_S = 1.0
_BUFFER_BYTES = 1 << 20
_MIN_READ = 1 << 20
"""Bytes that are fetched at least, for fewer requests."""


class FileDownload:
    """Partial file and its journal, held by one process, until it is complete and verified. Raises StorageError."""

    def __init__(self, file: PlannedFile) -> None:
        self._remote_file, self.size, self._expected_sha256 = file.remote_file, file.remote_file.size, file.sha256
        self._destination, self._partial_file = file.destination, file.destination.partial_file
        with disk_errors(self._partial_file.parent, self.size):
            self._partial_file.parent.mkdir(parents=True, exist_ok=True)
            if not self._partial_file.is_file():
                file.destination.journal.unlink(missing_ok=True)
            self._journal = ResumeJournal(file.destination.journal, self.size, file.identity)
            self.is_new = self._journal.is_new
            self._partial_file.open("ab").close()
        self.sha256, self.fetched_bytes = "", 0
        self._condition = threading.Condition()
        self._claimed_chunks: set[int] = set()
        self._refetch_digests: dict[int, set[bytes]] | None = None
        self._stop_event = threading.Event()
        self._failure: PhichatError | None = None
        self._notices: list[str] = []
        self._threads: list[threading.Thread] = []

    @property
    def done_bytes(self) -> int:
        """Bytes that are present."""
        return sum(self._journal.chunk_bytes)

    def read_range(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, fetched into the partial file if need be. Raises PhichatError."""
        stop = min(offset + length, self.size)
        for chunk in range(offset // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
            chunk_stop = min(max(stop - chunk * CHUNK_BYTES, _MIN_READ), self._journal.chunk_length(chunk))
            self._with_retries(partial(self._fetch_range, chunk, chunk * CHUNK_BYTES + chunk_stop))
        with disk_errors(self._partial_file.parent, self.size - self.done_bytes), self._partial_file.open("rb") as file:
            file.seek(offset)
            return file.read(stop - offset)

    def run(self) -> Iterator[DownloadProgress]:
        """Fetch what is missing and verify it, yielding the progress about ten times a second; then set `sha256`.

        Closing the iterator stops the transfer; the partial file keeps the bytes received. Raises PhichatError.
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
                    yield self._progress(notice)
                now = time.monotonic()
                if now - reported_at > _PROGRESS_INTERVAL_S:
                    reported_at = now
                    with suppress(OSError):  # shows other processes that this one is at work
                        os.utime(self._journal.path)
                    yield self._progress()
                if not is_measured and now - started > _MEASURE_AFTER_S:
                    is_measured = True
                    if self._should_parallelize(now - started):
                        for _ in range(_MAX_CONNECTIONS - 1):
                            self._start_thread(self._fetch_loop)
            if self._failure is not None:
                raise self._failure
            yield self._progress()
        finally:
            self.stop()

    def _progress(self, notice: str = "") -> DownloadProgress:
        return DownloadProgress(self.done_bytes, self.size, self.fetched_bytes, notice)

    def stop(self) -> None:
        """End the threads; the partial file keeps the bytes received."""
        self._stop_event.set()
        with self._condition:
            self._condition.notify_all()
        deadline = time.monotonic() + _STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def finish(self) -> None:
        """Move the journal to where a repair finds it, after the partial file was moved to its place."""
        self._journal.close()
        chunk_hashes = self._destination.chunk_hashes
        try:
            chunk_hashes.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            chunk_hashes.write_bytes(self._journal.path.read_bytes())
        except OSError:
            # A repair then fetches the whole file.
            chunk_hashes.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files, which stay."""
        self.stop()
        self._journal.close()

    def discard(self) -> None:
        """Delete the partial file and its journal."""
        self.close()
        self._partial_file.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until the disk has the content. Raises StorageError."""
        with disk_errors(self._partial_file.parent), self._partial_file.open("r+b") as file:
            file.truncate(self.size)
            os.fsync(file.fileno())

    # Threads

    def _start_thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._run_worker, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run_worker(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  (the outermost frame of a thread; run() raises it)
            with self._condition:
                self._failure = self._failure or self._to_failure(error)
            # No other thread may go on waiting for this one.
            self._stop_event.set()
        with self._condition:
            self._condition.notify_all()

    def _to_failure(self, error: Exception) -> PhichatError:
        if isinstance(error, PhichatError):
            return error
        if isinstance(error, OSError):
            return storage_error(error, self._partial_file.parent, self.size - self.done_bytes)
        detail = "".join(traceback.format_exception(error))
        return DownloadError(f"Internal error in phichat ({type(error).__name__})", TRY_AGAIN, detail=detail)

    def _should_parallelize(self, elapsed_s: float) -> bool:
        is_large = self.size - self.done_bytes > _PARALLEL_MIN_BYTES
        is_slow = 0 < self.fetched_bytes < _SINGLE_CONNECTION_RATE * elapsed_s
        return self._remote_file.supports_ranges is True and is_large and is_slow

    def _fetch_loop(self) -> None:
        """Fetch chunks until the whole file is verified."""
        while not self._stop_event.is_set():
            if not (claim := self._claim_chunks()):
                return
            try:
                if self._refetch_digests is not None:
                    self._refetch_until_stable(claim[0])
                else:
                    self._with_retries(partial(self._fetch_range, claim[0], self._journal.chunk_end(claim[-1])))
            finally:
                with self._condition:
                    self._claimed_chunks.difference_update(claim)
                    self._condition.notify_all()

    def _claim_chunks(self) -> range:
        """Claim a run of chunks for this thread, waiting for one to need it; empty once the file is verified."""
        with self._condition:
            while not self._stop_event.is_set() and not self.sha256:
                count = self._journal.chunk_count
                first = next((chunk for chunk in range(count) if self._needs_fetch(chunk)), None)
                if first is not None:
                    limit = 1 if self._refetch_digests is not None else _MAX_CHUNKS_PER_REQUEST
                    stop = first + 1
                    while stop < min(count, first + limit) and self._needs_fetch(stop):
                        stop += 1
                    self._claimed_chunks.update(range(first, stop))
                    return range(first, stop)
                self._condition.wait(0.5)
        return range(0)

    def _needs_fetch(self, chunk: int) -> bool:
        refetched = self._refetch_digests
        is_done = self._journal.is_complete(chunk) if refetched is None else chunk in refetched
        return chunk not in self._claimed_chunks and not is_done

    def _with_retries(self, fetch: Callable[[], None]) -> None:
        """Call fetch until it returns; give up after several attempts without any progress."""
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
                    reason = f"the server asks to wait {error.wait_s / 60:.0f} minutes"
                    raise DownloadError(f"The download stopped: {reason}", TRY_AGAIN) from None
                wait = max(error.wait_s, min(0.25 * 2**failures, _MAX_BACKOFF_S) * random.uniform(0.5, 1.0))
                if wait > 1:
                    self._notify(f"{error.reason}; retrying in {wait:.0f} s")
                self._stop_event.wait(wait)

    def _notify(self, notice: str) -> None:
        with self._condition:
            self._notices.append(notice[0].upper() + notice[1:] + ".")
            self._condition.notify_all()

    def _fetch_range(self, chunk: int, stop: int) -> None:
        """Fetch from the first missing byte of the chunk to stop. Raises TransferInterrupted."""
        start = chunk * CHUNK_BYTES + self._journal.chunk_bytes[chunk]
        if start >= stop:
            return
        with self._partial_file.open("r+b", buffering=0) as file:
            for offset, data in self._remote_file.iter_range(start, stop):
                if self._stop_event.is_set():
                    return
                with self._condition:
                    self.fetched_bytes += len(data)
                self._write_chunk_data(file, offset, data)
        for checked in range(chunk, -(-stop // CHUNK_BYTES)):
            expected = min(stop - checked * CHUNK_BYTES, self._journal.chunk_length(checked))
            if self._journal.chunk_bytes[checked] < expected:
                raise TransferInterrupted("the connection was closed early")

    def _write_chunk_data(self, file: io.FileIO, offset: int, data: bytes) -> None:
        """Write those bytes that continue a chunk."""
        view = memoryview(data)
        while view:
            chunk, start = divmod(offset, CHUNK_BYTES)
            segment, view = view[: CHUNK_BYTES - start], view[CHUNK_BYTES - start :]
            end = start + len(segment)
            written = self._journal.chunk_bytes[chunk]
            if start <= written < end:
                write_at(file, chunk * CHUNK_BYTES + written, segment[written - start :])
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
            self._with_retries(partial(self._fetch_range, chunk, self._journal.chunk_end(chunk)))
            digest = self._chunk_digest(chunk)
            with self._condition:
                if digest in digests:
                    self._refetch_digests[chunk] = digests
            digests.add(digest)

    def _chunk_digest(self, chunk: int) -> bytes:
        with self._partial_file.open("rb", buffering=0) as file:
            file.seek(chunk * CHUNK_BYTES)
            return hashlib.sha256(file.read(self._journal.chunk_length(chunk))).digest()

    # Hashing

    def _hash_all(self) -> None:
        """Follow the fetching threads through the file; set sha256 once it is verified. Raises HashMismatch."""
        for is_second in (False, True):
            if (digest := self._hash_file()) is None:
                return
            if self._expected_sha256 in ("", digest):
                with self._condition:
                    self.sha256 = digest
                return
            if is_second:
                raise self._mismatch_error()
            self._notify("the file received is damaged; fetching it again to find where")
            with self._condition:
                self._journal.clear_digests()
                self._refetch_digests = {}
                self._condition.notify_all()

    def _hash_file(self) -> str | None:
        """Return the hash of the whole file, None if the transfer was stopped."""
        hasher, buffer = hashlib.sha256(), bytearray(_BUFFER_BYTES)
        chunk, refetched = 0, -1
        with self._partial_file.open("rb", buffering=0) as file:
            while chunk < self._journal.chunk_count:
                if not self._wait_for_chunk(chunk):
                    return None
                next_hasher, length = hasher.copy(), self._journal.chunk_length(chunk)
                is_readable = hash_range(file, chunk * CHUNK_BYTES, length, next_hasher, buffer)
                known, digest = self._journal.digests[chunk], next_hasher.digest()
                with self._condition:
                    if is_readable and known in (NOT_HASHED, digest):
                        if known == NOT_HASHED:
                            self._journal.record_digest(chunk, digest)
                    elif is_readable and refetched == chunk:
                        # Received twice like this: the recorded hash is of damaged content.
                        self._journal.clear_digests(chunk)
                        self._journal.record_digest(chunk, digest)
                    else:
                        refetched = chunk
                        self._journal.record_written(chunk, 0)
                        self._condition.notify_all()
                        continue
                hasher, chunk = next_hasher, chunk + 1
        return hasher.hexdigest()

    def _wait_for_chunk(self, chunk: int) -> bool:
        """Wait for a chunk; False if the transfer was stopped."""
        with self._condition:
            while not self._stop_event.is_set():
                settled = self._refetch_digests is None or chunk in self._refetch_digests
                if settled and self._journal.is_complete(chunk):
                    return True
                self._condition.wait(0.5)
        return False

    def _mismatch_error(self) -> HashMismatch:
        message = f"{self._remote_file.name} keeps failing its SHA-256 check, so it was deleted"
        return HashMismatch(message, "Choose another repository, or try again later")
