"""Reader of GGUF's primitive types from an untrusted source.

It holds a window of the file, skips long arrays (the vocabulary) and keeps their length, and bounds every count
before it loops or allocates, so that a hostile file costs at most seconds and a few megabytes. Types are numbered as
in `enum gguf_type` of gguf.h; llama.cpp refuses nested arrays too.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from phichat.errors import ModelFileError

ReadAt = Callable[[int, int], bytes]
"""read(offset, length) -> bytes; returns fewer only at the end of the file."""

MetadataValue = int | float | bool | str | tuple[int | float | bool | str, ...]

_WINDOW_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 28
_MAX_TEMPLATE_BYTES = 1 << 20
_MAX_STRING_BYTES = 1 << 14
_MAX_METADATA_BYTES = 1 << 23
_MAX_ARRAY_STRINGS = 1 << 22
_MAX_ARRAY_LENGTH = 1 << 30  # GGUF_MAX_ARRAY_ELEMENTS
_MAX_STORED_NUMBERS = 1024
_MAX_STORED_STRINGS = 64
_BYTES_PER_NUMBER = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(slots=True)
class HeaderReader:
    """Position in a GGUF of file_size bytes, which errors (ModelFileError) call source_name."""

    read_at: ReadAt
    file_size: int
    source_name: str
    window: bytes = b""
    window_start: int = 0
    position: int = 0
    charged_bytes: int = 0
    skipped_strings: int = 0
    array_lengths: dict[str, int] = field(default_factory=dict)

    def make_error(self, problem: str, next_step: str = "Download it again") -> ModelFileError:
        return ModelFileError(f"{self.source_name} {problem}", next_step)

    def require_bytes(self, length: int) -> int:
        """Load that many bytes into the window and move past them; return their index in the window."""
        if length > self.file_size - self.position:
            raise self.make_error(f"ends at {self.file_size:,} bytes, inside its header: it is cut off or damaged")
        index = self.position - self.window_start
        if index < 0 or index + length > len(self.window):
            if self.position > _MAX_HEADER_BYTES:
                raise self.make_error(f"is damaged: its header is larger than {_MAX_HEADER_BYTES:,} bytes")
            self.window = self.read_at(self.position, max(length, min(_WINDOW_BYTES, self.file_size - self.position)))
            self.window_start, index = self.position, 0
            if len(self.window) < length:
                raise self.make_error("shrank while being read")
        self.position += length
        return index

    def read_scalar(self, code: str) -> int | float | bool:
        index = self.require_bytes(struct.calcsize("<" + code))
        value: int | float | bool = struct.unpack_from("<" + code, self.window, index)[0]
        return value

    def read_int(self, code: str = "Q") -> int:
        return int(self.read_scalar(code))

    def charge_memory(self, size: int) -> None:
        """Count bytes that stay in memory, up to a limit."""
        self.charged_bytes += size
        if self.charged_bytes > _MAX_METADATA_BYTES:
            raise self.make_error(f"is damaged: its metadata takes more than {_MAX_METADATA_BYTES:,} bytes")

    def read_string(self, limit: int, label: str) -> str:
        """Read a string of at most limit bytes, which the error calls label."""
        length = self.read_int()
        if length > limit:
            raise self.make_error(f"is damaged: {label} of {length:,} bytes")
        self.charge_memory(length)
        index = self.require_bytes(length)
        return self.window[index : index + length].decode("utf-8", "replace")

    def skip_bytes(self, length: int) -> None:
        if length > self.file_size - self.position:
            self.require_bytes(length)
        self.position += length

    def skip_strings(self, count: int) -> None:
        """Skip strings by their lengths alone."""
        self.skipped_strings += count
        if self.skipped_strings > _MAX_ARRAY_STRINGS:
            raise self.make_error(f"is damaged: its arrays claim {self.skipped_strings:,} strings")
        if count * 8 > self.file_size - self.position:
            self.require_bytes(count * 8)
        length_at = struct.Struct("<Q").unpack_from
        while count:
            index = self.require_bytes(8)
            window, last = self.window, len(self.window) - 8
            while count and index <= last:
                index += 8 + length_at(window, index)[0]
                count -= 1
            end = self.window_start + index
            if end > self.file_size:
                self.require_bytes(end - self.position)
            self.position = end

    def read_value(self, key: str, kind: int) -> MetadataValue | None:
        """Read the value of a metadata key; None when it is too long to be stored."""
        if kind in _SCALARS:
            return self.read_scalar(_SCALARS[kind])
        if kind == _ARRAY:
            return self.read_array(key)
        if kind != _STRING:
            raise self.make_error(f"is damaged: the metadata key {key!r} has the unknown type {kind}")
        if key == "tokenizer.chat_template":
            return self.read_string(_MAX_TEMPLATE_BYTES, "a chat template")
        length = self.read_int()
        if length > _MAX_STRING_BYTES:
            self.skip_bytes(length)
            return None
        self.position -= 8
        return self.read_string(_MAX_STRING_BYTES, "a string")

    def read_array(self, key: str) -> MetadataValue | None:
        kind, count = self.read_int("I"), self.read_int()
        if kind not in _SCALARS and kind != _STRING:
            raise self.make_error(f"is damaged: the metadata key {key!r} is an array of the unusable type {kind}")
        if count > _MAX_ARRAY_LENGTH:
            raise self.make_error(f"is damaged: the metadata key {key!r} claims {count:,} elements")
        self.array_lengths[key] = count
        if kind == _STRING:
            if count > _MAX_STORED_STRINGS:
                self.skip_strings(count)
                return None
            return tuple(self.read_string(_MAX_STRING_BYTES, f"an element of {key!r}") for _ in range(count))
        size = struct.calcsize("<" + _SCALARS[kind])
        if count > _MAX_STORED_NUMBERS:
            self.skip_bytes(count * size)
            return None
        self.charge_memory(count * _BYTES_PER_NUMBER)
        index = self.require_bytes(count * size)
        return struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.window, index)
