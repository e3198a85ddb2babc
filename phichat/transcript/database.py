"""The SQLite file of the transcripts: creating and opening it, transactions, and the meaning of its errors."""

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import RLock
from time import monotonic, sleep

from phichat.errors import TranscriptError
from phichat.transcript.fts_segmentation import insert_word_breaks
from phichat.transcript.migrations import Migration, migrate_schema

BUSY_TIMEOUT_S = 5.0
"""How long to wait for another process that writes."""


class Database:
    """One connection; thread-safe. Its methods raise TranscriptError."""

    def __init__(self, path: Path, migrations: Sequence[Migration], busy_timeout_s: float) -> None:
        self.path = path
        self._lock = RLock()
        with self._translate_errors():
            _create_file(path)
            self._connection = _connect(path, busy_timeout_s)
            try:
                migrate_schema(self._connection, migrations)
            except (sqlite3.Error, TranscriptError):
                self._connection.close()
                raise

    def read_transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Yield the connection with a consistent view of the store."""
        return self._transaction("BEGIN")

    def write_transaction(self) -> contextlib.AbstractContextManager[sqlite3.Connection]:
        """Yield the connection; all changes are committed at the end, or none."""
        return self._transaction("BEGIN IMMEDIATE")

    @contextlib.contextmanager
    def write_transaction_no_fsync(self) -> Iterator[sqlite3.Connection]:
        """Like `write_transaction` without fsync: the changes survive the death of the process, but a power cut
        only once a later commit has waited for the disk. A disk that stalls delays nothing."""
        with self._lock, self._translate_errors():
            self._connection.execute("PRAGMA synchronous = NORMAL")
            try:
                with self.write_transaction() as connection:
                    yield connection
            finally:
                self._connection.execute("PRAGMA synchronous = FULL")

    @contextlib.contextmanager
    def autocommit(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection outside of any transaction."""
        with self._lock, self._translate_errors():
            yield self._connection

    def copy_to_file(self, target: Path) -> None:
        """Write a consistent copy, atomically, readable by its owner only."""
        from tempfile import mkstemp

        if (target.exists() and target.samefile(self.path)) or target.with_name(f"{target.name}-wal").exists():
            raise TranscriptError(f"{target} is a store in use", "Give the copy another name")
        with self._lock, self._translate_errors():
            handle, name = mkstemp(dir=target.parent, prefix=f".{target.name}.")
            os.close(handle)
            partial = Path(name)
            try:
                with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy:
                    self._connection.backup(copy)
                    copy.execute("PRAGMA journal_mode = DELETE")  # the copy is one file, without a log
                partial.replace(target)
            finally:
                partial.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the connection."""
        with self._lock, self._translate_errors():
            self._connection.close()

    @contextlib.contextmanager
    def _transaction(self, begin_statement: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._translate_errors():
            self._connection.execute(begin_statement)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            finally:
                # SQLite itself has rolled back after some errors.
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _to_transcript_error(error, self.path) from error


def _create_file(path: Path) -> None:
    """Create the folder and the file, readable by their owner only; SQLite gives its other files the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Return a connection that writes, or one that only reads where the folder is not writable."""
    try:
        return _open_connection(str(path), busy_timeout_s)
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY")):
            raise
        return _open_connection(f"{path.absolute().as_uri()}?mode=ro&immutable=1", busy_timeout_s)


def _open_connection(address: str, busy_timeout_s: float) -> sqlite3.Connection:
    connection = sqlite3.connect(
        address, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False, uri=address.startswith("file:")
    )
    connection.text_factory = _decode_text
    connection.create_function("spaced", 1, insert_word_breaks, deterministic=True)
    try:
        _enable_wal(connection, busy_timeout_s)
        for pragma in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON", "journal_size_limit = 4194304"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _enable_wal(connection: sqlite3.Connection, busy_timeout_s: float) -> None:
    """Where two processes turn a new file to WAL at once, SQLite refuses one of them without waiting."""
    deadline = monotonic() + busy_timeout_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY") or monotonic() > deadline:
                raise
            sleep(0.01)


def _decode_text(stored: bytes) -> str:
    """Decode text that may hold lone surrogates, as command lines do."""
    try:
        return stored.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return stored.decode("utf-8", "replace")


def encode_text(text: str) -> bytes:
    """Encode for CAST(? AS TEXT): sqlite3 refuses a str with lone surrogates."""
    return text.encode("utf-8", "surrogatepass")


_KIND_BY_ERRNO = {errno.ENOSPC: "FULL", errno.EACCES: "READONLY", errno.EPERM: "READONLY", errno.EROFS: "READONLY"}
"""SQLite's names for errors of the system."""

_LOCKED = ("Another program has locked the transcripts", "Close the program that uses {path}")
_NOT_WRITABLE = ("{path} cannot be written", "Check its permissions and those of its folder")
_DAMAGED = ("{path} is damaged", "Move it away, and restore a backup if you have one")
_MESSAGES = {
    "FULL": ("The disk of the transcripts is full", "Free some space for {path}"),
    **{"BUSY": _LOCKED, "LOCKED": _LOCKED, "CORRUPT": _DAMAGED, "NOTADB": _DAMAGED},
    **{"READONLY": _NOT_WRITABLE, "CANTOPEN": _NOT_WRITABLE, "PERM": _NOT_WRITABLE},
}
_OTHER_MESSAGE = ("{path} cannot be used ({reason})", "Check the disk and the permissions")


def _to_transcript_error(error: sqlite3.Error | OSError, path: Path) -> TranscriptError:
    if isinstance(error, OSError):
        kind, reason = _KIND_BY_ERRNO.get(error.errno or 0, ""), error.strerror or str(error)
    else:
        kind, reason = getattr(error, "sqlite_errorname", "").removeprefix("SQLITE_").split("_")[0], str(error)
    message, next_step = _MESSAGES.get(kind, _OTHER_MESSAGE)
    return TranscriptError(message.format(path=path, reason=reason), next_step.format(path=path))
