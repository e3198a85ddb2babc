"""A cursor that reads the primitive types of GGUF from a source it does not trust.

The cursor holds a window of the file, steps over long arrays (the vocabulary) keeping only their length,
and bounds every count before it loops or allocates, so that a hostile file costs at most seconds and a
few megabytes. Types are numbered as in `enum gguf_type` of gguf.h; llama.cpp refuses nested arrays too.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from phichat.errors import ModelFileError

ReadAt = Callable[[int, int], bytes]
"""read(offset, length) -> bytes; returns fewer only at the end of the file."""

Value = int | float | bool | str | tuple[int | float | bool | str, ...]

DOWNLOAD_AGAIN = "download it again"

_WINDOW = 1 << 20
_MAX_HEADER = 1 << 28
_MAX_TEMPLATE = 1 << 20
_MAX_STRING_KEPT = 1 << 14
_MAX_KEPT = 1 << 23
_MAX_ARRAY_STRINGS = 1 << 22
_MAX_ARRAY = 1 << 30  # GGUF_MAX_ARRAY_ELEMENTS
_NUMBERS_KEPT = 1024
_STRINGS_KEPT = 64
_PYTHON_NUMBER = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(slots=True)
class Cursor:
    """Position in a GGUF of file_size bytes; where names the file in errors, which are ModelFileError."""

    read: ReadAt
    file_size: int
    where: str
    window: bytes = b""
    window_start: int = 0
    position: int = 0
    kept: int = 0
    strings_walked: int = 0
    array_lengths: dict[str, int] = field(default_factory=dict)

    def bad(self, what: str) -> ModelFileError:
        return ModelFileError(f"{self.where} {what}", DOWNLOAD_AGAIN)

    def need(self, length: int) -> int:
        """Brings that many bytes at the cursor into the window and moves on; the index where they begin."""
        if length > self.file_size - self.position:
            raise self.bad(f"ends at {self.file_size:,} bytes, inside its header: it is cut off or damaged")
        index = self.position - self.window_start
        if index < 0 or index + length > len(self.window):
            if self.position > _MAX_HEADER:
                raise self.bad(f"is damaged: its header is larger than {_MAX_HEADER:,} bytes")
            self.window = self.read(self.position, max(length, min(_WINDOW, self.file_size - self.position)))
            self.window_start, index = self.position, 0
            if len(self.window) < length:
                raise self.bad("became shorter while it was read")
        self.position += length
        return index

    def scalar(self, code: str) -> int | float | bool:
        index = self.need(struct.calcsize("<" + code))
        value: int | float | bool = struct.unpack_from("<" + code, self.window, index)[0]
        return value

    def count(self, code: str = "Q") -> int:
        return int(self.scalar(code))

    def keep(self, size: int) -> None:
        """Counts what stays in memory, in bytes."""
        self.kept += size
        if self.kept > _MAX_KEPT:
            raise self.bad(f"is damaged: its metadata takes more than {_MAX_KEPT:,} bytes")

    def string(self, limit: int, what: str) -> str:
        """A string of at most limit bytes; what names it in the error."""
        length = self.count()
        if length > limit:
            raise self.bad(f"is damaged: {what} of {length:,} bytes")
        self.keep(length)
        index = self.need(length)
        return self.window[index : index + length].decode("utf-8", "replace")

    def skip(self, length: int) -> None:
        if length > self.file_size - self.position:
            self.need(length)
        self.position += length

    def skip_strings(self, count: int) -> None:
        """Steps over strings by their lengths alone."""
        self.strings_walked += count
        if self.strings_walked > _MAX_ARRAY_STRINGS:
            raise self.bad(f"is damaged: its arrays claim {self.strings_walked:,} strings")
        if count * 8 > self.file_size - self.position:
            self.need(count * 8)
        length_at = struct.Struct("<Q").unpack_from
        while count:
            at = self.need(8)
            window, last = self.window, len(self.window) - 8
            while count and at <= last:
                at += 8 + length_at(window, at)[0]
                count -= 1
            end = self.window_start + at
            if end > self.file_size:
                self.need(end - self.position)
            self.position = end

    def value(self, key: str, kind: int) -> Value | None:
        """The value of a metadata key; None when it is too long to be kept."""
        if kind in _SCALARS:
            return self.scalar(_SCALARS[kind])
        if kind == _ARRAY:
            return self.array(key)
        if kind != _STRING:
            raise self.bad(f"is damaged: the metadata key {key!r} has the unknown type {kind}")
        if key == "tokenizer.chat_template":
            return self.string(_MAX_TEMPLATE, "a chat template")
        length = self.count()
        if length > _MAX_STRING_KEPT:
            self.skip(length)
            return None
        self.position -= 8
        return self.string(_MAX_STRING_KEPT, "a string")

    def array(self, key: str) -> Value | None:
        kind, count = self.count("I"), self.count()
        if kind not in _SCALARS and kind != _STRING:
            raise self.bad(f"is damaged: the metadata key {key!r} is an array of the unusable type {kind}")
        if count > _MAX_ARRAY:
            raise self.bad(f"is damaged: the metadata key {key!r} claims {count:,} elements")
        self.array_lengths[key] = count
        if kind == _STRING:
            if count > _STRINGS_KEPT:
                self.skip_strings(count)
                return None
            return tuple(self.string(_MAX_STRING_KEPT, f"an element of {key!r}") for _ in range(count))
        size = struct.calcsize("<" + _SCALARS[kind])
        if count > _NUMBERS_KEPT:
            self.skip(count * size)
            return None
        self.keep(count * _PYTHON_NUMBER)
        index = self.need(count * size)
        return struct.unpack_from(f"<{count}{_SCALARS[kind]}", self.window, index)
