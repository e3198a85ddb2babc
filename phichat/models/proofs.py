"""What the files of models were proven to be, so that they are read whole once and not at every load.

A proof holds for a file as it was then: device, inode, size, times of change. The time of status change
cannot be set by hand, so a write that restores the modification time is noticed too.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from phichat.errors import ModelFileError
from phichat.paths import write_atomically

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
    """The proofs of this user: a folder with a small JSON file for each file of a model.

    One file each, so that processes which write at once cannot lose each other's. What cannot be
    read is not proven, and what cannot be written costs only the time to prove it again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def known(self, path: Path) -> Proof | None:
        """The proof of the file, while it is the file that was proven. Links are followed."""
        try:
            document = json.loads(self._entry(path).read_text("utf-8"))
            if document["key"] == _key(path):
                return Proof(str(document["sha256"]), str(document["verified_at"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def expected(self, path: Path) -> str:
        """The sha256 that the file once had, whatever became of it since; "" when nobody knows."""
        try:
            return str(json.loads(self._entry(path).read_text("utf-8"))["sha256"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def remember(self, path: Path, sha256: str) -> None:
        """The file, as it is now, was just read whole and has this hash."""
        try:
            # A later write has to get a later time.
            age = time.time() - path.stat().st_ctime
            if 0 <= age < _TICK_S:
                time.sleep(_TICK_S - age)
            now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
            document = {"path": str(path), "key": _key(path), "sha256": sha256, "verified_at": now}
            write_atomically(self._entry(path), json.dumps(document).encode())
        except OSError:
            return

    def forget(self, path: Path) -> None:
        """The file is gone, or about to be."""
        try:
            self._entry(path).unlink(missing_ok=True)
        except OSError:
            return

    def _entry(self, path: Path) -> Path:
        name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        return self._folder / f"{name}.json"


def _key(path: Path) -> list[int]:
    return _key_of(path.stat())


def _key_of(status: os.stat_result) -> list[int]:
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def sha256_of(path: Path, cancel: Stop) -> Generator[float, None, str]:
    """Read a file whole, yielding the fraction read (0 to 1) a few times a second; returns its sha256.

    A set cancel ends it with "". Memory is one buffer, whatever the size. Raises ModelFileError when the
    file cannot be read, or is written to meanwhile.
    """
    digest, buffer = hashlib.sha256(), bytearray(_BUFFER)
    view, done, told = memoryview(buffer), 0, time.monotonic()
    try:
        with path.open("rb", buffering=0) as file:
            before = _key_of(os.fstat(file.fileno()))
            size = before[2]
            yield 0.0
            while count := file.readinto(buffer):
                digest.update(view[:count])
                done += count
                if cancel.is_set():
                    return ""
                if (now := time.monotonic()) - told > 0.1:
                    told = now
                    yield min(1.0, done / max(1, size))
            after = _key_of(os.fstat(file.fileno()))
    except OSError as why:
        raise ModelFileError(
            f"{path} cannot be read ({why.strerror})", "check the disk it is on and its permissions"
        ) from why
    if before != after:
        raise ModelFileError(f"{path} was written to while it was read", "wait for the other program, then try again")
    yield 1.0
    return digest.hexdigest()
