"""Folder of saved KV caches, which spare a later engine process the prefill of a conversation.

The engine process writes and reads the files (`phichat.engine.worker.kv_cache.persistence`). Their names hold the
model, the conversation and the value, so that no file has to be opened to remove or evict it:

    MODEL-CONVERSATION-MILLISECONDS-RANDOM.kv    a KV cache; .part while it is written, .tried while it is restored
    CONVERSATION.gone                            a tombstone: no KV cache from before its time may be saved

MODEL is a hash of everything that changes the numbers in a KV cache, MILLISECONDS the time that the prefill of its
tokens took. A file that is not complete, or whose restoring crashed an engine process, never has the suffix .kv.
"""

import contextlib
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from phichat.errors import TranscriptError

COMPLETE_SUFFIX, PARTIAL_SUFFIX, RESTORING_SUFFIX, TOMBSTONE_SUFFIX = ".kv", ".part", ".tried", ".gone"

_FILE_NAME_PATTERN = re.compile(r"([0-9a-f]{16})-([0-9a-z]{1,64})-([0-9a-f]{8})-[0-9a-f]{8}(\.kv|\.part|\.tried)")
_MAX_DEFAULT_BUDGET = 4_000_000_000
_FREE_DISK_DIVISOR = 20
"""The default budget in bytes: the free disk space divided by this, but at most _MAX_DEFAULT_BUDGET."""
_STALE_WRITE_S = 60.0
"""Time since the last write after which no process writes or restores a file any more."""
_TOMBSTONE_TTL_S = 30 * 86_400.0
"""Engine processes that hold a deleted conversation have ended by then."""
_VALUE_HALF_LIFE_S = 600.0
"""Time without use after which a file is worth half as much."""


@dataclass(frozen=True, slots=True)
class KvStoreFile:
    """File of the folder. saved_s: seconds that it saves. size: bytes. changed_ns: time of the last write or use."""

    path: Path
    model_key: str
    conversation_key: str
    saved_s: float
    size: int
    changed_ns: int

    def compute_value(self, now: float) -> float:
        """Return the seconds saved per byte, which decay without use."""
        return self.saved_s / (1 + max(0.0, now - self.changed_ns / 1e9) / _VALUE_HALF_LIFE_S) / max(1, self.size)


class KvStore:
    """Folder that any number of processes use at once without a lock. One that cannot be read counts as empty.
    budget: bytes that it may hold, None for a default that suits the disk, 0 to save nothing."""

    def __init__(self, path: Path, budget: int | None = None) -> None:
        self.path, self._budget = path, budget

    def list_files(self) -> list[KvStoreFile]:
        """Return the KV caches, complete or not."""
        return [
            KvStoreFile(path, match[1], match[2], int(match[3], 16) / 1000, stat.st_size, stat.st_mtime_ns)
            for path, stat in self._scan_entries()
            if (match := _FILE_NAME_PATTERN.fullmatch(path.name))
        ]

    def _scan_entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        with contextlib.suppress(OSError), os.scandir(self.path) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_file(follow_symlinks=False):
                        yield Path(entry.path), entry.stat(follow_symlinks=False)

    @property
    def size(self) -> int:
        """Bytes in the folder."""
        return sum(stat.st_size for _, stat in self._scan_entries())

    @property
    def budget(self) -> int:
        """Bytes that the folder may hold."""
        if self._budget is not None:
            return self._budget
        disk = next((path for path in (self.path, *self.path.parents) if path.is_dir()), Path())
        with contextlib.suppress(OSError):
            return min(_MAX_DEFAULT_BUDGET, (shutil.disk_usage(disk).free + self.size) // _FREE_DISK_DIVISOR)
        return 0

    def make_partial_path(self, model_key: str, conversation_key: str, saved_s: float) -> Path:
        """Return a new path to write a KV cache to."""
        name = f"{model_key[:16]}-{conversation_key}-{min(int(saved_s * 1000), 2**32 - 1):08x}-{secrets.token_hex(4)}"
        return self.path / f"{name}{PARTIAL_SUFFIX}"

    def evict(self, needed_bytes: int, evict_first: Collection[Path] = ()) -> bool:
        """Remove the least valuable files until needed_bytes more fit the budget, and return whether they do.
        evict_first: files to remove before any other."""
        budget = self.budget
        if needed_bytes > budget:
            return False
        now, files = time.time(), self.list_files()
        total = sum(file.size for file in files)
        complete_files = (file for file in files if file.path.suffix == COMPLETE_SUFFIX)
        for file in sorted(complete_files, key=lambda file: (file.path not in evict_first, file.compute_value(now))):
            if total + needed_bytes <= budget:
                break
            with contextlib.suppress(OSError):
                file.path.unlink(missing_ok=True)
                total -= file.size
        return total + needed_bytes <= budget

    def delete_conversation(self, conversation_id: str) -> None:
        """Remove the saved KV caches of a conversation, and keep engine processes from saving its present one.
        Raises TranscriptError when its files cannot be removed."""
        if not self.path.is_dir():
            return  # no engine process has one to save: they create the folder when they load a model
        conversation_key = encode_conversation_id(conversation_id)
        tombstone = self.path / f"{conversation_key}{TOMBSTONE_SUFFIX}"
        try:
            tombstone.touch(mode=0o600)
            now = time.time_ns()
            os.utime(tombstone, ns=(now, now))  # a file system's own clock is coarser, and late
            for file in self.list_files():
                if file.conversation_key == conversation_key:
                    file.path.unlink(missing_ok=True)
        except OSError as error:
            message = f"The saved KV cache of that conversation cannot be removed ({error})"
            raise TranscriptError(message, f"Empty {self.path}") from error

    def was_deleted_since(self, conversation_key: str, since_ns: int) -> bool:
        """Return whether a conversation was deleted after a time of `time.time_ns`."""
        with contextlib.suppress(OSError):
            return (self.path / f"{conversation_key}{TOMBSTONE_SUFFIX}").stat().st_mtime_ns >= since_ns
        return False

    def remove_stale(self) -> None:
        """Remove the files that dead processes were writing or restoring, and old tombstones."""
        now = time.time()
        for path, stat in self._scan_entries():
            match = _FILE_NAME_PATTERN.fullmatch(path.name)
            is_unfinished = match is not None and match[4] != COMPLETE_SUFFIX
            max_age_s = _STALE_WRITE_S if is_unfinished else _TOMBSTONE_TTL_S
            if (is_unfinished or path.suffix == TOMBSTONE_SUFFIX) and now - stat.st_mtime > max_age_s:
                with contextlib.suppress(OSError):
                    path.unlink()


def encode_conversation_id(conversation_id: str) -> str:
    """Return a conversation's id for use in file names; imported ids may be any text. "" stays ""."""
    if not conversation_id or re.fullmatch(r"[0-9a-z]{1,32}", conversation_id):
        return conversation_id
    return "x" + hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def compute_model_identity(model_hash: str, path: Path, data_offset: int, library_file: Path, machine_key: str) -> str:
    """Return a text that changes with everything of model, library and machine that changes the numbers in a KV cache.

    model_hash: the SHA-256 of the file, or "" where it is unknown: then its size, its modification time and its header
    stand for it. data_offset: end of the header. Raises OSError.
    """
    if not model_hash:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            model_hash = f"{stat.st_size} {stat.st_mtime_ns} {hashlib.sha256(file.read(data_offset)).hexdigest()}"
    libraries = [
        f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}"
        for file in sorted(library_file.parent.glob("*"))
        if file.is_file() and ("llama" in file.name or "ggml" in file.name)
    ]
    return "\n".join((model_hash, *libraries, machine_key))
