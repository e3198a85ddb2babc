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
from phichat.models.journal import CHUNK, NOT_HASHED, Journal
from phichat.models.source import TRY_AGAIN, Interrupted, Source

_WORKERS = 4
_RUN = 8
"""Chunks in one request at most."""
_WORTH_SHARING = 64 << 20
"""Bytes that have to be missing for more than one connection."""
_FAST_ENOUGH = 150e6
"""Bytes a second of one connection that more of them would hardly improve."""
_LOOK_AFTER_S = 1.5
_ATTEMPTS = 8
_OPINIONS = 5
_LONGEST_WAIT_S = 20.0
_LONGEST_ASKED_S = 300.0
_TICK_S = 0.1
_STOPPING_S = 1.0
_BUFFER = 1 << 20
_LEAST = 1 << 20
"""Bytes that are fetched at once where fewer are asked for."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes that are there, of how many; how many came over the network in this run. notice: news, else ""."""

    done: int
    total: int
    fetched: int
    notice: str = ""


class Transfer:
    """A partial file and its journal, until it is whole and proven. One process at a time may hold it.

    part: where the bytes go. identity: see `Journal`. sha256: what the file has to be, "" where nobody has said.
    Raises StorageError.
    """

    def __init__(self, part: Path, journal: Path, source: Source, *, identity: str, sha256: str) -> None:
        self._part, self._source, self._expected = part, source, sha256
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            if journal.is_file() and not part.is_file():
                journal.unlink()
            self._journal = Journal(journal, source.size, identity)
            self.begins_anew = self._journal.is_new
            part.open("ab").close()
        except OSError as why:
            raise storage_error(why, part.parent, source.size) from why
        self.sha256 = ""
        self.fetched = 0
        self._state = threading.Condition()
        self._claimed: set[int] = set()
        self._seen: dict[int, set[bytes]] | None = None
        self._stop = threading.Event()
        self._failure: Exception | None = None
        self._notices: list[str] = []
        self._threads: list[threading.Thread] = []

    @property
    def done(self) -> int:
        """Bytes that are there."""
        return self._journal.done

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return self._journal.size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file, fetched into the part if they are not there yet. Raises PhichatError."""
        stop = min(offset + length, self.size)
        for chunk in range(offset // CHUNK, -(-stop // CHUNK)):
            until = min(max(stop - chunk * CHUNK, _LEAST), self._journal.length_of(chunk))
            self._persist(partial(self._fetch, chunk, chunk * CHUNK + until))
        try:
            with self._part.open("rb") as file:
                file.seek(offset)
                return file.read(stop - offset)
        except OSError as why:
            raise self._storage_error(why) from why

    def run(self) -> Iterator[Progress]:
        """Fetch what is missing, telling how far it is about ten times a second; then `sha256` is proven.

        To close the iterator ends the transfer, and what came is kept. Raises DownloadError and what the
        source raises.
        """
        try:
            self._start(self._hash_all)
            self._start(self._work)
            began, told, is_looked_at = time.monotonic(), 0.0, False
            while any(thread.is_alive() for thread in self._threads):
                with self._state:
                    self._state.wait(_TICK_S)
                    notices, self._notices = self._notices, []
                for notice in notices:
                    yield Progress(self.done, self.size, self.fetched, notice)
                now = time.monotonic()
                if now - told > _TICK_S:
                    told = now
                    with suppress(OSError):
                        self._journal.touch()
                    yield Progress(self.done, self.size, self.fetched)
                if not is_looked_at and now - began > _LOOK_AFTER_S:
                    is_looked_at = True
                    if self._is_worth_sharing(now - began):
                        for _ in range(_WORKERS - 1):
                            self._start(self._work)
            if self._failure is not None:
                raise self._failure
            yield Progress(self.done, self.size, self.fetched)
        finally:
            self.stop()

    def stop(self) -> None:
        """End the threads. What came is kept."""
        self._stop.set()
        with self._state:
            self._state.notify_all()
        until = time.monotonic() + _STOPPING_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def finish(self, keep_journal: Path) -> None:
        """The part was moved to its place: the journal goes to where a repair finds it."""
        self._journal.close()
        try:
            keep_journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            keep_journal.write_bytes(self._journal.path.read_bytes())
        except OSError:
            # Without it a repair fetches the whole file.
            keep_journal.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files, which stay."""
        self.stop()
        self._journal.close()

    def discard(self) -> None:
        """Nothing of it is worth keeping."""
        self.close()
        self._part.unlink(missing_ok=True)
        self._journal.path.unlink(missing_ok=True)

    def sync(self) -> None:
        """Wait until the disk has it. Raises StorageError."""
        try:
            with self._part.open("r+b") as file:
                file.truncate(self.size)
                os.fsync(file.fileno())
        except OSError as why:
            raise self._storage_error(why) from why

    # Threads

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=self._guarded, args=(work,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (PhichatError, OSError) as why:
            with self._state:
                if self._failure is None:
                    self._failure = why if isinstance(why, PhichatError) else self._storage_error(why)
            self._stop.set()
        finally:
            with self._state:
                self._state.notify_all()

    def _is_worth_sharing(self, elapsed_s: float) -> bool:
        """Whether several connections may fetch the rest faster than one."""
        missing = self.size - self.done
        return self._source.ranges is True and missing > _WORTH_SHARING and 0 < self.fetched < _FAST_ENOUGH * elapsed_s

    def _work(self) -> None:
        """Fetch chunks until all are there and proven."""
        while not self._stop.is_set():
            run = self._claim()
            if run is None:
                return
            first, last = run
            try:
                if self._seen is not None:
                    self._settle(first)
                else:
                    end = last * CHUNK + self._journal.length_of(last)
                    self._persist(partial(self._fetch, first, end))
            finally:
                with self._state:
                    self._claimed.difference_update(range(first, last + 1))
                    self._state.notify_all()

    def _claim(self) -> tuple[int, int] | None:
        """First and last of a run of chunks that this thread shall see to; None when all are proven."""
        with self._state:
            while not self._stop.is_set() and not self.sha256:
                wanted = (chunk for chunk in range(self._journal.count) if self._is_wanted(chunk))
                first = next(wanted, None)
                if first is not None:
                    last = first
                    limit = 1 if self._seen is not None else _RUN
                    while last + 1 < self._journal.count and last + 1 - first < limit and self._is_wanted(last + 1):
                        last += 1
                    self._claimed.update(range(first, last + 1))
                    return first, last
                self._state.wait(0.5)
        return None

    def _is_wanted(self, chunk: int) -> bool:
        if chunk in self._claimed:
            return False
        if self._seen is not None:
            return chunk not in self._seen
        return not self._journal.is_complete(chunk)

    def _persist(self, fetch: Callable[[], None]) -> None:
        """Call fetch until it returns; give up when nothing comes for several attempts."""
        failures = 0
        while not self._stop.is_set():
            before = self.done
            try:
                fetch()
                return
            except Interrupted as why:
                failures = 1 if self.done > before else failures + 1
                if why.ignores_ranges and failures > 2:
                    self._source.ranges = False
                if failures >= _ATTEMPTS:
                    raise DownloadError(f"The download stopped: {why.why}", TRY_AGAIN) from None
                if why.wait_s > _LONGEST_ASKED_S:
                    raise DownloadError(
                        f"The download stopped: the server asks to wait {why.wait_s / 60:.0f} minutes", TRY_AGAIN
                    ) from None
                wait = max(why.wait_s, min(0.25 * 2**failures, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0))
                if wait > 1:
                    self._tell(f"{why.why}; going on in {wait:.0f} s")
                self._stop.wait(wait)

    def _tell(self, notice: str) -> None:
        with self._state:
            self._notices.append(notice[0].upper() + notice[1:] + ".")
            self._state.notify_all()

    def _fetch(self, chunk: int, stop: int) -> None:
        """Fetch from the first missing byte of the chunk to stop. Raises Interrupted."""
        start = chunk * CHUNK + self._journal.written(chunk)
        if start >= stop:
            return
        with self._part.open("r+b", buffering=0) as file:
            for offset, piece in self._source.read(start, stop):
                if self._stop.is_set():
                    return
                with self._state:
                    self.fetched += len(piece)
                self._put(file, offset, piece)
        reached = chunk
        while reached * CHUNK < stop:
            if self._journal.written(reached) < min(stop - reached * CHUNK, self._journal.length_of(reached)):
                raise Interrupted("the connection was closed early")
            reached += 1

    def _put(self, file: io.FileIO, offset: int, piece: bytes) -> None:
        """Write what of the piece continues a chunk."""
        view = memoryview(piece)
        while view:
            chunk = offset // CHUNK
            room = CHUNK - offset % CHUNK
            now, view = view[:room], view[room:]
            begin, end = offset - chunk * CHUNK, offset - chunk * CHUNK + len(now)
            written = self._journal.written(chunk)
            if begin <= written < end:
                _write_all(file, chunk * CHUNK + written, now[written - begin :])
                with self._state:
                    self._journal.note_written(chunk, end)
                    if self._journal.is_complete(chunk):
                        self._state.notify_all()
            offset += len(now)

    def _settle(self, chunk: int) -> None:
        """Fetch a chunk until two fetches of it agree."""
        assert self._seen is not None
        seen = {self._digest_of(chunk)}
        while not self._stop.is_set() and chunk not in self._seen:
            if len(seen) > _OPINIONS:
                raise self._mismatch()
            with self._state:
                self._journal.note_written(chunk, 0)
            end = chunk * CHUNK + self._journal.length_of(chunk)
            self._persist(partial(self._fetch, chunk, end))
            digest = self._digest_of(chunk)
            with self._state:
                if digest in seen:
                    self._seen[chunk] = seen
            seen.add(digest)

    def _digest_of(self, chunk: int) -> bytes:
        with self._part.open("rb", buffering=0) as file:
            file.seek(chunk * CHUNK)
            return hashlib.sha256(file.read(self._journal.length_of(chunk))).digest()

    def _storage_error(self, why: OSError) -> StorageError:
        return storage_error(why, self._part.parent, self.size - self.done)

    # Hashing

    def _hash_all(self) -> None:
        """Follow the workers through the file; set sha256 when it is proven. Raises HashMismatch."""
        for is_second in (False, True):
            digest = self._hash_once()
            if digest is None:
                return
            if self._expected in ("", digest):
                with self._state:
                    self.sha256 = digest
                return
            if is_second:
                raise self._mismatch()
            self._tell("what came is damaged; fetching it again to find where")
            with self._state:
                self._journal.forget_digests()
                self._seen = {}
                self._state.notify_all()

    def _hash_once(self) -> str | None:
        """The hash of the whole file; None when the transfer was stopped."""
        running, buffer = hashlib.sha256(), bytearray(_BUFFER)
        refetched = -1
        with self._part.open("rb", buffering=0) as file:
            chunk = 0
            while chunk < self._journal.count:
                if not self._wait_for(chunk):
                    return None
                following = running.copy()
                is_there = _hash_chunk(file, chunk * CHUNK, self._journal.length_of(chunk), following, buffer)
                known, digest = self._journal.digest(chunk), following.digest()
                with self._state:
                    if is_there and known in (NOT_HASHED, digest):
                        if known == NOT_HASHED:
                            self._journal.note_digest(chunk, digest)
                    elif is_there and refetched == chunk:
                        # It came twice like this: what is noted was damaged before it was hashed.
                        self._journal.forget_digests(chunk)
                        self._journal.note_digest(chunk, digest)
                    else:
                        refetched = chunk
                        self._journal.note_written(chunk, 0)
                        self._state.notify_all()
                        continue
                running = following
                chunk += 1
        return running.hexdigest()

    def _wait_for(self, chunk: int) -> bool:
        """Until the chunk is there; whether it is."""
        with self._state:
            while not self._stop.is_set():
                settled = self._seen is None or chunk in self._seen
                if settled and self._journal.is_complete(chunk):
                    return True
                self._state.wait(0.5)
        return False

    def _mismatch(self) -> HashMismatch:
        return HashMismatch(
            f"{self._source.name} does not have the sha256 that was promised for it, however often it is fetched",
            "choose another repository, or try again later; nothing of it was kept",
        )


def _hash_chunk(file: io.FileIO, offset: int, length: int, digest: hashlib._Hash, buffer: bytearray) -> bool:
    """Feed the digest with that range; False when the file ends before it does."""
    file.seek(offset)
    view = memoryview(buffer)
    while length:
        count = file.readinto(view[: min(length, len(buffer))])
        if not count:
            return False
        digest.update(view[:count])
        length -= count
    return True


def _write_all(file: io.FileIO, offset: int, data: memoryview) -> None:
    file.seek(offset)
    while data:
        data = data[file.write(data) :]


def storage_error(why: OSError, folder: Path, missing: int = 0) -> StorageError:
    """The sentence for what the system says about a folder; missing: bytes that are still to be written."""
    if why.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk of {folder} is full and {missing / 1e9:.2f} GB of the file are missing",
            "free some space, then pull again; what came is kept",
        )
    if why.errno == errno.EFBIG:
        return StorageError(f"Files in {folder} may not get this large", "set HF_HUB_CACHE to a folder elsewhere")
    if why.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(
            f"{folder} may not be written", "change its permissions, or set HF_HUB_CACHE to another folder"
        )
    return StorageError(f"{folder} cannot be written ({why.strerror})", "check the disk it is on")
