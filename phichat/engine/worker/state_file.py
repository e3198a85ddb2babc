"""The file of one KV state.

    magic | length of the JSON, uint32 | JSON | token ids, uint32 each | SHA-256 of all that | payload

Numbers are little-endian. The JSON has the payload's size and SHA-256, so that no byte of the file is
without a checksum, and what the state is about can be read without the payload.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

MAGIC = b"phichat KV 1\r\n\x1a\n"
_LONGEST_JSON = 4096
_TOKEN = 4
_DIGEST = hashlib.sha256().digest_size
_PIECE = 256 << 10
"""Bytes that a processor keeps near: each is hashed when it was just read."""


class Damaged(Exception):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True)
class Head:
    """What a state is about.

    key: what it was made with, 64 hex digits. tokens: the ids as uint32 in their order, see `pack`.
    seconds: that evaluating one token took. divisible: whether it can be cut to the first of its tokens.
    payload: bytes; sha256: of them, in hex.
    """

    key: str
    owner: str
    tokens: bytes
    seconds: float
    divisible: bool
    payload: int
    sha256: str

    @property
    def count(self) -> int:
        """Tokens."""
        return len(self.tokens) // _TOKEN


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as they stand in the file."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack(tokens: bytes) -> list[int]:
    """What `pack` was given."""
    return list(struct.unpack(f"<{len(tokens) // _TOKEN}I", tokens))


def shared(one: bytes, other: bytes) -> int:
    """How many tokens two packed lists begin with alike."""
    least, most = 0, min(len(one), len(other)) // _TOKEN
    while least < most:
        middle = (least + most + 1) // 2
        if one[: middle * _TOKEN] == other[: middle * _TOKEN]:
            least = middle
        else:
            most = middle - 1
    return least


def size_of(tokens: int, payload: int) -> int:
    """The most bytes that a file with so much in it has."""
    return len(MAGIC) + 4 + _LONGEST_JSON + tokens * _TOKEN + _DIGEST + payload


def digest(payload: Any) -> str:
    """A payload's SHA-256."""
    return hashlib.sha256(payload).hexdigest()


def create(path: Path, size: int) -> BinaryIO:
    """A file of that size to fill, which others can see to be at work. Raises OSError."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(size)
    return file


def is_written(path: Path) -> bool:
    """Whether somebody is filling a file now; locks end with their process. Where it cannot be told: True."""
    if sys.platform == "win32":
        return path.exists()
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False


def write(file: BinaryIO, head: Head, payload: Any) -> None:
    """Fill what `create` has made, wait until the disk has it, and close it. Raises OSError."""
    about = {
        "key": head.key,
        "owner": head.owner,
        "tokens": head.count,
        "seconds": head.seconds,
        "divisible": head.divisible,
        "payload": head.payload,
        "sha256": head.sha256,
    }
    document = json.dumps(about).encode()
    begin = MAGIC + len(document).to_bytes(4, "little") + document + head.tokens
    with file:
        file.write(begin + hashlib.sha256(begin).digest())
        view = memoryview(payload).cast("B")
        for at in range(0, len(view), _PIECE):
            file.write(view[at : at + _PIECE])
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def read_head(file: BufferedReader) -> Head:
    """The head of a file whose size agrees with it; the payload is next. Raises Damaged and OSError."""
    size = os.fstat(file.fileno()).st_size
    begin = _exactly(file, len(MAGIC) + 4)
    length = int.from_bytes(begin[len(MAGIC) :], "little")
    if not begin.startswith(MAGIC) or length > _LONGEST_JSON:
        raise Damaged("it does not begin as a state does")
    document = _exactly(file, length)
    about = _about(document)
    rest = size - len(begin) - length - _DIGEST - about["payload"]
    if about["tokens"] * _TOKEN != rest:
        raise Damaged("its size is another")
    tokens = _exactly(file, rest)
    if hashlib.sha256(begin + document + tokens).digest() != _exactly(file, _DIGEST):
        raise Damaged("its head has changed")
    return Head(**{**about, "tokens": tokens})


def _about(document: bytes) -> dict[str, Any]:
    kinds = {
        **{"key": str, "owner": str, "sha256": str, "seconds": float, "divisible": bool},
        **{"tokens": int, "payload": int},
    }
    try:
        about = json.loads(document)
    except (ValueError, RecursionError) as why:
        raise Damaged("it has no JSON") from why
    if not isinstance(about, dict) or {name: type(value) for name, value in about.items()} != kinds:
        raise Damaged("its JSON is another")
    if about["tokens"] < 0 or about["payload"] < 0:
        raise Damaged("it has impossible sizes")
    return about


def map_payload(file: BufferedReader, head: Head) -> ctypes.Array[ctypes.c_uint8]:
    """The payload, from where `read_head` has stopped, as memory that the system takes from the file.

    All of it is read before, so that a disk that cannot read it says so here, and needs no memory twice.
    Raises Damaged and OSError.
    """
    begin, checksum = file.tell(), hashlib.sha256()
    piece = memoryview(bytearray(_PIECE))
    while count := file.readinto(piece):
        checksum.update(piece[:count])
    if checksum.hexdigest() != head.sha256:
        raise Damaged("its payload has changed")
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return (ctypes.c_uint8 * head.payload).from_buffer(mapped, begin)


def _exactly(file: BufferedReader, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise Damaged("it is cut off")
    return content
