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
_MAX_JSON_BYTES = 4096
_TOKEN_BYTES = 4
_DIGEST_BYTES = hashlib.sha256().digest_size
_CHUNK_BYTES = 256 << 10
"""Bytes that a processor keeps near: each is hashed when it was just read."""


class CorruptKvFile(Exception):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True)
class KvFileHeader:
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
    def token_count(self) -> int:
        """Tokens."""
        return len(self.tokens) // _TOKEN_BYTES


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Token ids as they stand in the file."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack_tokens(tokens: bytes) -> list[int]:
    """What `pack` was given."""
    return list(struct.unpack(f"<{len(tokens) // _TOKEN_BYTES}I", tokens))


def common_prefix_length(first: bytes, second: bytes) -> int:
    """How many tokens two packed lists begin with alike."""
    low, high = 0, min(len(first), len(second)) // _TOKEN_BYTES
    while low < high:
        mid = (low + high + 1) // 2
        if first[: mid * _TOKEN_BYTES] == second[: mid * _TOKEN_BYTES]:
            low = mid
        else:
            high = mid - 1
    return low


def max_file_size(token_count: int, payload_bytes: int) -> int:
    """The most bytes that a file with so much in it has."""
    return len(MAGIC) + 4 + _MAX_JSON_BYTES + token_count * _TOKEN_BYTES + _DIGEST_BYTES + payload_bytes


def sha256_hex(payload: Any) -> str:
    """A payload's SHA-256."""
    return hashlib.sha256(payload).hexdigest()


def create_file(path: Path, size: int) -> BinaryIO:
    """A file of that size to fill, which others can see to be at work. Raises OSError."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(size)
    return file


def is_being_written(path: Path) -> bool:
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


def write_file(file: BinaryIO, header: KvFileHeader, payload: Any) -> None:
    """Fill what `create` has made, wait until the disk has it, and close it. Raises OSError."""
    fields = {
        "key": header.key,
        "owner": header.owner,
        "tokens": header.token_count,
        "seconds": header.seconds,
        "divisible": header.divisible,
        "payload": header.payload,
        "sha256": header.sha256,
    }
    document = json.dumps(fields).encode()
    prefix = MAGIC + len(document).to_bytes(4, "little") + document + header.tokens
    with file:
        file.write(prefix + hashlib.sha256(prefix).digest())
        view = memoryview(payload).cast("B")
        for offset in range(0, len(view), _CHUNK_BYTES):
            file.write(view[offset : offset + _CHUNK_BYTES])
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def read_header(file: BufferedReader) -> KvFileHeader:
    """The head of a file whose size agrees with it; the payload is next. Raises Damaged and OSError."""
    size = os.fstat(file.fileno()).st_size
    prefix = _read_exactly(file, len(MAGIC) + 4)
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    if not prefix.startswith(MAGIC) or length > _MAX_JSON_BYTES:
        raise CorruptKvFile("it does not begin as a state does")
    document = _read_exactly(file, length)
    fields = _parse_header(document)
    tokens_size = size - len(prefix) - length - _DIGEST_BYTES - fields["payload"]
    if fields["tokens"] * _TOKEN_BYTES != tokens_size:
        raise CorruptKvFile("its size is another")
    tokens = _read_exactly(file, tokens_size)
    if hashlib.sha256(prefix + document + tokens).digest() != _read_exactly(file, _DIGEST_BYTES):
        raise CorruptKvFile("its head has changed")
    return KvFileHeader(**{**fields, "tokens": tokens})


def _parse_header(document: bytes) -> dict[str, Any]:
    field_types = {
        **{"key": str, "owner": str, "sha256": str, "seconds": float, "divisible": bool},
        **{"tokens": int, "payload": int},
    }
    try:
        fields = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise CorruptKvFile("it has no JSON") from error
    if not isinstance(fields, dict) or {name: type(value) for name, value in fields.items()} != field_types:
        raise CorruptKvFile("its JSON is another")
    if fields["tokens"] < 0 or fields["payload"] < 0:
        raise CorruptKvFile("it has impossible sizes")
    return fields


def map_payload(file: BufferedReader, header: KvFileHeader) -> ctypes.Array[ctypes.c_uint8]:
    """The payload, from where `read_head` has stopped, as memory that the system takes from the file.

    All of it is read before, so that a disk that cannot read it says so here, and needs no memory twice.
    Raises Damaged and OSError.
    """
    payload_offset, checksum = file.tell(), hashlib.sha256()
    chunk = memoryview(bytearray(_CHUNK_BYTES))
    while count := file.readinto(chunk):
        checksum.update(chunk[:count])
    if checksum.hexdigest() != header.sha256:
        raise CorruptKvFile("its payload has changed")
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return (ctypes.c_uint8 * header.payload).from_buffer(mapped, payload_offset)


def _read_exactly(file: BufferedReader, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise CorruptKvFile("it is cut off")
    return content
