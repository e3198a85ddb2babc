"""What the files of models were proven to be, so that they are read whole once and not at every load.

A proof holds for a file as it was then: device, inode, size, times of change. The time of status change
cannot be set by hand, so a write that restores the modification time is noticed too.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from phichat.errors import ModelFileError
from phichat.models.notes import Notes, stat_key

_BUFFER = 1 << 20
_TICK_S = 0.02
"""Longer than any system takes to count file times on: two writes within one tick look the same."""


class Stop(Protocol):
    """The word to stop, as the engine's Cancel says it."""

    def is_set(self) -> bool:
        """Whether it shall end."""
        ...


@dataclass(frozen=True, slots=True)
class Proof:
    """sha256: lower-case hexadecimal. verified_at: ISO 8601, UTC."""

    sha256: str
    verified_at: str


class Proofs:
    """The proofs of this user, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._notes = Notes(folder)

    def known(self, path: Path) -> Proof | None:
        """The proof of the file, while it is the file that was proven. Links are followed."""
        note = self._notes.read(path)
        try:
            if note.get("key") == stat_key(path.stat()):
                return Proof(str(note["sha256"]), str(note["verified_at"]))
        except (OSError, KeyError):
            pass
        return None

    def expected(self, path: Path) -> str:
        """The sha256 that the file once had, whatever became of it since; "" when nobody knows."""
        return str(self._notes.read(path).get("sha256", ""))

    def remember(self, path: Path, sha256: str) -> None:
        """The file, as it is now, was just read whole and has this hash."""
        try:
            # A later write has to get a later time.
            age = time.time() - path.stat().st_ctime
            if 0 <= age < _TICK_S:
                time.sleep(_TICK_S - age)
            key = stat_key(path.stat())
        except OSError:
            return
        self._notes.write(path, {"key": key, "sha256": sha256, "verified_at": utc_now()})

    def doubt(self, path: Path) -> None:
        """The file is not what it was, whatever its times say; what it should be stays known."""
        if note := self._notes.read(path):
            self._notes.write(path, {**note, "key": None})

    def forget(self, path: Path) -> None:
        """The file is gone, or about to be."""
        self._notes.remove(path)


def utc_now() -> str:
    """This moment to the second, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def sha256_of(path: Path, cancel: Stop) -> Generator[float, None, str]:
    """Read a file whole, yielding the fraction read (0 to 1) a few times a second; returns its sha256.

    A set cancel ends it with "". Memory is one buffer, whatever the size. Raises ModelFileError when the
    file cannot be read, or is written to meanwhile.
    """
    digest, buffer = hashlib.sha256(), bytearray(_BUFFER)
    view, done, told = memoryview(buffer), 0, time.monotonic()
    try:
        with path.open("rb", buffering=0) as file:
            before = stat_key(os.fstat(file.fileno()))
            size = os.fstat(file.fileno()).st_size
            yield 0.0
            while count := file.readinto(buffer):
                digest.update(view[:count])
                done += count
                if cancel.is_set():
                    return ""
                if (now := time.monotonic()) - told > 0.1:
                    told = now
                    yield min(1.0, done / max(1, size))
            after = stat_key(os.fstat(file.fileno()))
    except OSError as why:
        raise ModelFileError(
            f"{path} cannot be read ({why.strerror})", "check the disk it is on and its permissions"
        ) from why
    if before != after:
        raise ModelFileError(f"{path} was written to while it was read", "wait for the other program, then try again")
    yield 1.0
    return digest.hexdigest()
