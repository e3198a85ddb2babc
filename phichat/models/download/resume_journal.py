"""Journal of a partial download, in a file next to it, so that an interrupted process loses nothing.

For each chunk it holds how many of its bytes are written, from its beginning on, and, once the file up to its end
has been hashed, the SHA-256 of the file up to there. These hashes cost nothing beyond the hash of the whole file, and
show later which chunk of a file was damaged.

Bytes are recorded after they are written, both into the page cache, which outlives the process. After a power cut
the journal may be ahead of the bytes; the hashes show that.
"""

import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from phichat.storage.atomic_write import write_atomically

CHUNK_BYTES = 8 << 20
_HEADER = struct.Struct("<8sIIQ32s")
_MAGIC = b"phichat1"
_COUNT = struct.Struct("<I")
NOT_HASHED = bytes(32)


class ResumeJournal:
    """Journal of one file of `size` bytes, opened for writing.

    identity: of the file's content, such as its sha256 or its URL and ETag; a journal of other content or of another
    size is started over. Raises OSError. One thread writes at a time.
    """

    def __init__(self, path: Path, size: int, identity: str) -> None:
        self.path, self.size = path, size
        self.chunk_count = -(-size // CHUNK_BYTES)
        header = _HEADER.pack(_MAGIC, CHUNK_BYTES, 0, size, sha256(identity.encode()).digest())
        content = path.read_bytes() if path.is_file() else b""
        length = len(header) + self.chunk_count * (_COUNT.size + len(NOT_HASHED))
        self.is_new = len(content) != length or content[: len(header)] != header
        if self.is_new:
            content = header + bytes(length - len(header))
            write_atomically(path, content)
        self._digests_offset = len(header) + self.chunk_count * _COUNT.size
        counts = struct.unpack_from(f"<{self.chunk_count}I", content, len(header))
        # Bytes of each chunk that are present, and the hashes of the file up to its end: changed by record_ methods.
        self.chunk_bytes: list[int] = [min(count, self.chunk_length(chunk)) for chunk, count in enumerate(counts)]
        digests = content[self._digests_offset :]
        self.digests = [digests[at : at + len(NOT_HASHED)] for at in range(0, len(digests), len(NOT_HASHED))]
        self._file = path.open("r+b", buffering=0)

    def chunk_length(self, chunk: int) -> int:
        """Return the bytes in a chunk: CHUNK_BYTES, less for the last one."""
        return min(CHUNK_BYTES, self.size - chunk * CHUNK_BYTES)

    def chunk_end(self, chunk: int) -> int:
        """Return the offset of the end of a chunk in the file."""
        return chunk * CHUNK_BYTES + self.chunk_length(chunk)

    def is_complete(self, chunk: int) -> bool:
        """Return whether all bytes of a chunk are present."""
        return self.chunk_bytes[chunk] == self.chunk_length(chunk)

    def record_written(self, chunk: int, count: int) -> None:
        """Record how many bytes of a chunk are present."""
        self.chunk_bytes[chunk] = count
        self._write_at(_HEADER.size + chunk * _COUNT.size, _COUNT.pack(count))

    def record_digest(self, chunk: int, digest: bytes) -> None:
        """Record the hash of the file up to the end of a chunk."""
        self.digests[chunk] = digest
        self._write_at(self._digests_offset + chunk * len(NOT_HASHED), digest)

    def clear_digests(self, first: int = 0) -> None:
        """Discard the hashes from a chunk on."""
        for chunk in range(first, self.chunk_count):
            if self.digests[chunk] != NOT_HASHED:
                self.record_digest(chunk, NOT_HASHED)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_at(self, offset: int, content: bytes) -> None:
        self._file.seek(offset)
        self._file.write(content)


def read_progress(path: Path) -> tuple[int, int] | None:
    """Return (bytes present, bytes in total) of a partial download, None if the file is not a journal."""
    with suppress(OSError, struct.error):
        content = path.read_bytes()
        magic, chunk, _, size, _ = _HEADER.unpack_from(content)
        if (magic, chunk) == (_MAGIC, CHUNK_BYTES):
            return sum(struct.unpack_from(f"<{-(-size // CHUNK_BYTES)}I", content, _HEADER.size)), size
    return None
