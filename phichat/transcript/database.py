"""The SQLite file of the transcripts: making it, opening it, and what its errors mean."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from time import monotonic, sleep

from phichat.errors import TranscriptError
from phichat.transcript.migrations import MIGRATIONS, Migration, migrate
from phichat.transcript.spacing import spaced

PATIENCE_S = 5.0
"""How long to wait for another process that writes."""


class Database:
    """One connection, for any thread. Its methods raise TranscriptError."""

    def __init__(
        self, path: Path, migrations: Sequence[Migration] = MIGRATIONS, patience_s: float = PATIENCE_S
    ) -> None:
        self.path = path
        self._lock = RLock()
        with self._told():
            _create(path)
            self._connection = _connect(path, patience_s)
            try:
                migrate(self._connection, migrations)
            except (sqlite3.Error, TranscriptError):
                self._connection.close()
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, at one moment of the store."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """The connection, with what is done committed at the end, or none of it."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def writing_lightly(self) -> Iterator[sqlite3.Connection]:
        """As `writing`, without waiting for the disk: what is done survives the death of the process at once,
        but a power cut only when a later commit has waited. A disk that stalls holds nothing up."""
        with self._lock, self._told():
            self._connection.execute("PRAGMA synchronous = NORMAL")
            try:
                with self.writing() as connection:
                    yield connection
            finally:
                self._connection.execute("PRAGMA synchronous = FULL")

    @contextlib.contextmanager
    def bare(self) -> Iterator[sqlite3.Connection]:
        """The connection outside of any transaction."""
        with self._lock, self._told():
            yield self._connection

    def copy_to(self, target: Path) -> None:
        """A copy as of one moment, put in place in one step, readable by its owner only."""
        from tempfile import mkstemp

        if (target.exists() and target.samefile(self.path)) or target.with_name(f"{target.name}-wal").exists():
            raise TranscriptError(f"{target} is a store in use", "give the copy another name")
        with self._lock, self._told():
            handle, name = mkstemp(dir=target.parent, prefix=f".{target.name}.")
            os.close(handle)
            part = Path(name)
            try:
                with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy:
                    self._connection.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")  # one file, whatever becomes of it
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)

    def close(self) -> None:
        """Nothing more can be done with it."""
        with self._lock, self._told():
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._told():
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                # SQLite itself has rolled back after some errors.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as why:
            raise _sentence(why, self.path) from why


def _create(path: Path) -> None:
    """The folder and the file, readable by their owner only from the first moment; SQLite gives its
    other files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _connect(path: Path, patience_s: float) -> sqlite3.Connection:
    """A connection that writes, or where the folder forbids it one that only reads."""
    try:
        return _settled(str(path), patience_s)
    except sqlite3.OperationalError as why:
        if not why.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        return _settled(f"{path.absolute().as_uri()}?mode=ro&immutable=1", patience_s)


def _settled(place: str, patience_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        place, timeout=patience_s, isolation_level=None, check_same_thread=False, uri=place.startswith("file:")
    )
    connection.text_factory = _text
    connection.create_function("spaced", 1, spaced, deterministic=True)
    try:
        # Two processes that turn a new file to WAL at once: SQLite refuses one of them without waiting.
        _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), patience_s)
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON", "journal_size_limit = 4194304"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _patiently(step: Callable[[], object], patience_s: float) -> None:
    deadline = monotonic() + patience_s
    while True:
        try:
            step()
        except sqlite3.OperationalError as why:
            if why.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY") or monotonic() > deadline:
                raise
            sleep(0.01)
        else:
            return


def _text(stored: bytes) -> str:
    """Command lines can hold lone surrogates, and every word is kept."""
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return stored.decode("utf-8", "replace")


def as_bytes(text: str) -> bytes:
    """For CAST(? AS TEXT): sqlite3 refuses a str with lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


_KINDS = {errno.ENOSPC: "FULL", errno.EACCES: "READONLY", errno.EPERM: "READONLY", errno.EROFS: "READONLY"}
"""SQLite's words for what the system says."""


def _sentence(why: sqlite3.Error | OSError, path: Path) -> TranscriptError:
    match why:
        case OSError():
            kind = _KINDS.get(why.errno or 0, "")
            reason = why.strerror or str(why)
        case _:
            kind = getattr(why, "sqlite_errorname", "").removeprefix("SQLITE_").split("_")[0]
            reason = str(why)
    match kind:
        case "FULL":
            return TranscriptError("The disk of the transcripts is full", f"make room for {path}")
        case "BUSY" | "LOCKED":
            return TranscriptError("Another program holds the transcripts locked", f"end what uses {path}")
        case "READONLY" | "CANTOPEN" | "PERM":
            return TranscriptError(f"{path} cannot be written", "check its permissions and those of its folder")
        case "CORRUPT" | "NOTADB":
            return TranscriptError(f"{path} is damaged", "move it away, and put a backup in its place if there is one")
        case _:
            return TranscriptError(f"{path} cannot be used ({reason})", "check the disk and the permissions")
