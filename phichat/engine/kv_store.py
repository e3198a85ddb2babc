"""The folder of KV states: what a model had in its KV cache after a conversation, kept for the next time.

The engine process writes and reads the files (`phichat.engine.worker.kv_cache.persistence`). Which there are, whose they
are and what they are worth stands in their names, so that nothing has to be opened to remove them or to
make room:

    KEY-OWNER-MILLISECONDS-CHANCE.kv     a state; .part while it is written, .tried while it is restored
    OWNER.gone                           what was evaluated for this owner before is not to be kept

KEY stands for everything that changes the numbers in a state, OWNER for a conversation, MILLISECONDS for
the time that evaluating its tokens took. A file that is not whole, or that an engine died of while it
restored it, never has the name of a state.
"""

from __future__ import annotations

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
"""The default budget: this many bytes, or this part of what is free, whichever is less."""
_STALE_WRITE_S = 60.0
"""Since the last byte of a file that is being written or restored, after which nobody is at it any more."""
_TOMBSTONE_TTL_S = 30 * 86_400.0
"""How long it is known who is not to be kept; engines that knew them have ended by then."""
_VALUE_HALF_LIFE_S = 600.0
"""After which a state that was not used again is worth half as much. What is said just now comes before what was
measured a little slower some time ago."""


@dataclass(frozen=True, slots=True)
class KvStoreFile:
    """One file of the folder. seconds: what it saves. size: bytes. changed_at: when it was written or last used."""

    path: Path
    model_key: str
    conversation_key: str
    saved_s: float
    size: int
    changed_ns: int

    @property
    def suffix(self) -> str:
        """WHOLE, PART or TRIED."""
        return self.path.suffix

    def compute_value(self, now: float) -> float:
        """Seconds saved per byte, less the longer nobody used it."""
        age = max(0.0, now - self.changed_ns / 1e9)
        return self.saved_s / (1 + age / _VALUE_HALF_LIFE_S) / max(1, self.size)


class KvStore:
    """Any number of processes use one folder at once; none of them locks it. Nothing is created before
    something is kept. A folder that cannot be read is an empty one.

    budget: bytes that it may hold, None for what suits the disk; 0 to keep nothing.
    """

    def __init__(self, path: Path, budget: int | None = None) -> None:
        self.path, self._budget = path, budget

    def list_files(self) -> list[KvStoreFile]:
        """Everything in it that has the name of a state, finished or not."""
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
        """Bytes that it holds."""
        return sum(stat.st_size for _, stat in self._scan_entries())

    @property
    def budget(self) -> int:
        """Bytes that it may hold."""
        if self._budget is not None:
            return self._budget
        disk = next((path for path in (self.path, *self.path.parents) if path.is_dir()), Path())
        try:
            free = shutil.disk_usage(disk).free
        except OSError:
            return 0
        return min(_MAX_DEFAULT_BUDGET, (free + self.size) // _FREE_DISK_DIVISOR)

    def make_partial_path(self, model_key: str, conversation_key: str, saved_s: float) -> Path:
        """The path of a state to write, as a PART."""
        milliseconds = min(int(saved_s * 1000), 2**32 - 1)
        return (
            self.path / f"{model_key[:16]}-{conversation_key}-{milliseconds:08x}-{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
        )

    def evict(self, needed_bytes: int, evict_first: Collection[Path] = ()) -> bool:
        """Remove the least valuable states until `needed` more bytes are inside the budget; False when that
        cannot be.

        first: what goes before anything else.
        """
        budget = self.budget
        if needed_bytes > budget:
            return False
        now = time.time()
        files = self.list_files()
        total = sum(file.size for file in files)
        complete_files = (file for file in files if file.suffix == COMPLETE_SUFFIX)
        for file in sorted(complete_files, key=lambda file: (file.path not in evict_first, file.compute_value(now))):
            if total + needed_bytes <= budget:
                break
            with contextlib.suppress(OSError):
                file.path.unlink(missing_ok=True)
                total -= file.size
        return total + needed_bytes <= budget

    def delete_conversation(self, conversation_id: str) -> None:
        """Remove what was kept of a conversation; engines that still know it keep nothing of it from before now.

        Raises TranscriptError when its files cannot be removed.
        """
        conversation_key = encode_conversation_id(conversation_id)
        if not self.path.is_dir():
            # No engine has any: they make the folder when a model is loaded.
            return
        tombstone = self.path / f"{conversation_key}{TOMBSTONE_SUFFIX}"
        try:
            tombstone.touch(mode=0o600)
            now = time.time_ns()
            os.utime(tombstone, ns=(now, now))  # a file system's own clock is coarser, and late
            for file in self.list_files():
                if file.conversation_key == conversation_key:
                    file.path.unlink(missing_ok=True)
        except OSError as error:
            raise TranscriptError(
                f"What the engine keeps of that conversation cannot be removed ({error})", f"Empty {self.path}"
            ) from error

    def was_deleted_since(self, conversation_key: str, since_ns: int) -> bool:
        """Whether a conversation was removed after that time (of `time.time_ns`)."""
        try:
            return (self.path / f"{conversation_key}{TOMBSTONE_SUFFIX}").stat().st_mtime_ns >= since_ns
        except OSError:
            return False

    def remove_stale(self) -> None:
        """Remove what writers and readers that died have left behind."""
        now = time.time()
        for path, stat in self._scan_entries():
            match = _FILE_NAME_PATTERN.fullmatch(path.name)
            max_age_s = (
                _TOMBSTONE_TTL_S
                if path.suffix == TOMBSTONE_SUFFIX
                else _STALE_WRITE_S
                if match and match[4] != COMPLETE_SUFFIX
                else None
            )
            if max_age_s is not None and now - stat.st_mtime > max_age_s:
                with contextlib.suppress(OSError):
                    path.unlink()


def encode_conversation_id(conversation_id: str) -> str:
    """A conversation's id as it stands in file names; imported ones may be any text. "" stays so."""
    if not conversation_id or re.fullmatch(r"[0-9a-z]{1,32}", conversation_id):
        return conversation_id
    return "x" + hashlib.sha256(conversation_id.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def compute_model_identity(model_hash: str, path: Path, data_offset: int, library_file: Path, machine_key: str) -> str:
    """What of a model, its library and the machine changes the numbers in a state.

    model: the sha256 of its file, or "" where nobody knows it: then its size, its time of change and its
    header stand for it. data_offset: where the header ends. Raises OSError.
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
