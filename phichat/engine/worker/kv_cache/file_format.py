"""File format of a saved KV cache sequence.

    magic | length of the JSON, uint32 | JSON | token ids, uint32 each | SHA-256 of all that | payload

Numbers are little-endian. The JSON holds the payload's size and SHA-256, so that every byte of the file is covered by
a checksum, and a file can be judged without reading its payload (the bytes of `llama_state_seq_get_data`).
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import hashlib
import mmap
import os
import struct
import sys
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Generic, TypeVar

import msgspec

MAGIC = b"phichat KV 1\r\n\x1a\n"
_MAX_JSON_BYTES = 4096
_TOKEN_BYTES = 4
_DIGEST_BYTES = hashlib.sha256().digest_size

_Size = Annotated[int, msgspec.Meta(ge=0)]
_Tokens = TypeVar("_Tokens", bytes, _Size)


class CorruptKvFile(Exception):
    """A file that is not what was written."""


class _Header(msgspec.Struct, Generic[_Tokens], frozen=True, forbid_unknown_fields=True):
    """Header of a file.

    key: of everything that changes the numbers in it, 64 hex digits. owner: the conversation's key.
    tokens: see `pack_tokens`; in the JSON their number. seconds: that evaluating one token took. divisible: if a prefix
    of the tokens can be used alone. payload: bytes; sha256: of the payload, in hex.
    """

    key: str
    owner: str
    tokens: _Tokens
    seconds: float
    divisible: bool
    payload: _Size
    sha256: str

    @property
    def token_count(self: _Header[bytes]) -> int:
        return len(self.tokens) // _TOKEN_BYTES


KvFileHeader = _Header[bytes]


def pack_tokens(tokens: Sequence[int]) -> bytes:
    """Return token ids as uint32, as in the file."""
    return struct.pack(f"<{len(tokens)}I", *tokens)


def unpack_tokens(tokens: bytes) -> list[int]:
    """Return the token ids that `pack_tokens` was given."""
    return list(struct.unpack(f"<{len(tokens) // _TOKEN_BYTES}I", tokens))


def common_prefix_length(first: bytes, second: bytes) -> int:
    """Return the number of tokens that two packed lists start with in common."""
    lengths = range(_TOKEN_BYTES, min(len(first), len(second)) + 1, _TOKEN_BYTES)
    return bisect.bisect_left(lengths, True, key=lambda length: first[:length] != second[:length])


def max_file_size(token_count: int, payload_bytes: int) -> int:
    """Return the most bytes that a file with that many tokens and payload bytes can have."""
    return len(MAGIC) + 4 + _MAX_JSON_BYTES + token_count * _TOKEN_BYTES + _DIGEST_BYTES + payload_bytes


def create_file(path: Path, size: int) -> BinaryIO:
    """Create a file of that size to fill, locked so that `is_being_written` is True. Raises OSError."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags, 0o600), "wb")
    if sys.platform != "win32":
        import fcntl

        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(size)
    return file


def is_being_written(path: Path) -> bool:
    """Return True while a process holds the lock of the file that it fills; on Windows, if the file exists."""
    if sys.platform == "win32":
        return path.exists()
    import fcntl

    with contextlib.suppress(OSError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def write_file(file: BinaryIO, header: KvFileHeader, payload: Any) -> None:
    """Fill a file of `create_file`, wait until it is on the disk, and close it. Raises OSError."""
    document = msgspec.json.encode({**msgspec.structs.asdict(header), "tokens": header.token_count})
    prefix = MAGIC + len(document).to_bytes(4, "little") + document + header.tokens
    with file:
        file.write(prefix + hashlib.sha256(prefix).digest())
        file.write(payload)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


def read_header(file: BufferedReader) -> KvFileHeader:
    """Read the header of a file whose size agrees with it; the payload is next. Raises CorruptKvFile and OSError."""
    size = os.fstat(file.fileno()).st_size
    prefix = _read_exactly(file, len(MAGIC) + 4)
    length = int.from_bytes(prefix[len(MAGIC) :], "little")
    if not prefix.startswith(MAGIC) or length > _MAX_JSON_BYTES:
        raise CorruptKvFile("the file does not begin like a KV file")
    document = _read_exactly(file, length)
    try:
        fields = msgspec.json.decode(document, type=_Header[_Size])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptKvFile("the header's JSON is invalid") from error
    tokens_size = size - len(prefix) - length - _DIGEST_BYTES - fields.payload
    if fields.tokens * _TOKEN_BYTES != tokens_size:
        raise CorruptKvFile("the file's size does not agree with its header")
    tokens = _read_exactly(file, tokens_size)
    if hashlib.sha256(prefix + document + tokens).digest() != _read_exactly(file, _DIGEST_BYTES):
        raise CorruptKvFile("the header's checksum does not match")
    return KvFileHeader(**{**msgspec.structs.asdict(fields), "tokens": tokens})


def map_payload(file: BufferedReader, header: KvFileHeader) -> ctypes.Array[ctypes.c_uint8]:
    """Map the payload into memory, from where `read_header` has stopped. Raises CorruptKvFile and OSError.

    All of it is read and hashed first, in chunks: a disk that cannot read it fails here, and no copy is needed.
    """
    payload_offset = file.tell()
    if hashlib.file_digest(file, "sha256").hexdigest() != header.sha256:
        raise CorruptKvFile("the payload's checksum does not match")
    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    return (ctypes.c_uint8 * header.payload).from_buffer(mapped, payload_offset)


def _read_exactly(file: BufferedReader, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise CorruptKvFile("the file is cut off")
    return content
