"""What of a partial download is there, kept beside it so that any end of the process loses nothing.

A file of chunks: for each chunk how many of its bytes are written from its beginning on, and, once the file
up to its end has been hashed, the SHA-256 of the file up to there. These hashes cost nothing beyond the one of
the whole file, and tell later in which chunk a file was damaged.

Written bytes are noted after they are written, both into the page cache, which outlives the process. After a
power cut the notes may be ahead of the bytes; the hashes tell.
"""

from __future__ import annotations

import os
import struct
from hashlib import sha256
from pathlib import Path

from phichat.storage.atomic_write import write_atomically

CHUNK_BYTES = 8 << 20
_HEADER = struct.Struct("<8sIIQ32s")
_MAGIC = b"phichat1"
_COUNT = struct.Struct("<I")
_DIGEST_BYTES = 32
NOT_HASHED = bytes(_DIGEST_BYTES)


class ResumeJournal:
    """The journal of one file of size bytes, opened for writing.

    identity: what the file is, such as its sha256 or its address and ETag; a journal of something else, or
    of another size, is begun anew. Raises OSError. One thread writes at a time.
    """

    def __init__(self, path: Path, size: int, identity: str) -> None:
        self.path, self.size = path, size
        self.chunk_count = -(-size // CHUNK_BYTES)
        header = _HEADER.pack(_MAGIC, CHUNK_BYTES, 0, size, sha256(identity.encode()).digest())
        content = path.read_bytes() if path.is_file() else b""
        length = len(header) + self.chunk_count * (_COUNT.size + _DIGEST_BYTES)
        self.is_new = len(content) != length or content[: len(header)] != header
        if self.is_new:
            content = header + bytes(length - len(header))
            write_atomically(path, content)
        self._digests_offset = len(header) + self.chunk_count * _COUNT.size
        self._chunk_bytes: list[int] = list(struct.unpack_from(f"<{self.chunk_count}I", content, len(header)))
        digests = content[self._digests_offset :]
        self._digests = [digests[at : at + _DIGEST_BYTES] for at in range(0, len(digests), _DIGEST_BYTES)]
        for chunk, count in enumerate(self._chunk_bytes):
            self._chunk_bytes[chunk] = min(count, self.chunk_length(chunk))
        self._file = path.open("r+b", buffering=0)

    @property
    def bytes_written(self) -> int:
        """Bytes that are there."""
        return sum(self._chunk_bytes)

    def chunk_length(self, chunk: int) -> int:
        """Bytes in a chunk: all but the last are full."""
        return min(CHUNK_BYTES, self.size - chunk * CHUNK_BYTES)

    def chunk_bytes_written(self, chunk: int) -> int:
        """Bytes of the chunk that are there, from its beginning on."""
        return self._chunk_bytes[chunk]

    def is_complete(self, chunk: int) -> bool:
        return self._chunk_bytes[chunk] == self.chunk_length(chunk)

    def record_written(self, chunk: int, count: int) -> None:
        """So many bytes of the chunk are there now."""
        self._chunk_bytes[chunk] = count
        self._write_at(_HEADER.size + chunk * _COUNT.size, _COUNT.pack(count))

    def get_digest(self, chunk: int) -> bytes:
        """The hash of the file up to the end of the chunk, or NOT_HASHED."""
        return self._digests[chunk]

    def record_digest(self, chunk: int, digest: bytes) -> None:
        self._digests[chunk] = digest
        self._write_at(self._digests_offset + chunk * _DIGEST_BYTES, digest)

    def clear_digests(self, first: int = 0) -> None:
        """The hashes from that chunk on are of something else."""
        for chunk in range(first, self.chunk_count):
            if self._digests[chunk] != NOT_HASHED:
                self.record_digest(chunk, NOT_HASHED)

    def heartbeat(self) -> None:
        """Tell who watches that somebody works on it."""
        os.utime(self.path)

    def close(self) -> None:
        self._file.close()

    def _write_at(self, offset: int, content: bytes) -> None:
        self._file.seek(offset)
        self._file.write(content)


def read_progress(path: Path) -> tuple[int, int] | None:
    """(bytes there, bytes in all) by the journal of a partial download; None when it is none."""
    try:
        content = path.read_bytes()
        magic, chunk, _, size, _ = _HEADER.unpack_from(content)
        if magic != _MAGIC or chunk != CHUNK_BYTES:
            return None
        return sum(struct.unpack_from(f"<{-(-size // CHUNK_BYTES)}I", content, _HEADER.size)), size
    except (OSError, struct.error):
        return None
