"""Damaged copies of a GGUF file: every field of the header, changed in several ways."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_HUGE = (2**16, 2**20, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63)
_TEXTS = (
    b"\x1b]0;owned\x07\x1b[2J\x9b31m",
    b"\xff\xfe\xfd invalid \xc3\x28",
    b"\x00\x00\x00\x00",
    "\u202e\u200b\U000e0041".encode(),
    b"../../../../etc/passwd",
    b"%s%n%x{}{0}",
)
_TEMPLATES = (
    b"{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
    b"{{ 9 ** (9 ** 7) }}",
    b"{{ ''.__class__.__mro__[1].__subclasses__() }}",
    b"{{ messages[99].content }}",
    b"{% if %}",
    b"{{ 'a' * 99999999 }}",
    b"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    b"{{ raise_exception('\x1b[31mno') }}",
    b"<|im_start|>" * 4000,
)


@dataclass(frozen=True, slots=True)
class Field:
    """One thing in the header. kind: integer (a number that is a count, length, type or offset),
    value (a metadata number), or text; name: of the key or tensor it belongs to."""

    kind: str
    name: str
    start: int
    size: int


class Layout:
    """Where everything in a well-formed file is."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 4
        self.fields: list[Field] = []
        self._name = "header"
        self._number("integer", 4)
        tensors, keys = self._number("integer", 8), self._number("integer", 8)
        for _ in range(keys):
            self._name = "key"
            self._name = self._text().decode("utf-8", "replace")
            self._value(self._number("integer", 4))
        for _ in range(tensors):
            self._name = "tensor name"
            self._name = self._text().decode("utf-8", "replace")
            for _ in range(self._number("integer", 4)):
                self._number("integer", 8)
            self._number("integer", 4)
            self._number("integer", 8)
        self.end = self._at

    def _number(self, kind: str, size: int) -> int:
        self.fields.append(Field(kind, self._name, self._at, size))
        value = int.from_bytes(self._data[self._at : self._at + size], "little")
        self._at += size
        return value

    def _text(self) -> bytes:
        size = self._number("integer", 8)
        self.fields.append(Field("text", self._name, self._at, size))
        self._at += size
        return self._data[self._at - size : self._at]

    def _value(self, kind: int) -> None:
        if kind == _STRING:
            self._text()
        elif kind == _ARRAY:
            of, count = self._number("integer", 4), self._number("integer", 8)
            for _ in range(count):
                self._value(of)
        else:
            self._number("value", _SIZES[kind])


class Mutator:
    """Makes the n-th damaged copy, always the same for the same seed and file."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data, self._seed = data, seed
        self._layout = Layout(data)
        # Tokens and merges are most fields by far; each key and tensor gets the same weight.
        self._groups: dict[tuple[str, str], list[Field]] = {}
        for field in self._layout.fields:
            self._groups.setdefault((field.kind, field.name), []).append(field)

    def make(self, number: int) -> tuple[str, bytes]:
        """(what was done, the file)."""
        source = random.Random(f"{self._seed}-{number}")
        ways = (
            (self._integer, 26),
            (self._value, 18),
            (self._text, 10),
            (self._template, 4),
            (self._header_bits, 12),
            (self._header_bytes, 8),
            (self._body, 8),
            (self._truncated, 7),
            (self._block, 7),
        )
        chosen = source.choices([way for way, _ in ways], [weight for _, weight in ways])[0]
        copy = bytearray(self._data)
        done = [chosen(source, copy)]
        if source.random() < 0.2:
            done.append(self._header_bits(source, copy))
        return ", ".join(done), bytes(copy)

    def _pick(self, source: random.Random, kind: str) -> Field:
        return source.choice(self._groups[source.choice([key for key in self._groups if key[0] == kind])])

    def _set(self, source: random.Random, copy: bytearray, kind: str) -> str:
        field = self._pick(source, kind)
        old = int.from_bytes(copy[field.start : field.start + field.size], "little")
        new = source.choice(
            (0, 1, -1, old + 1, old - 1, old * 2, old // 2, source.choice(_HUGE), source.getrandbits(8 * field.size))
        )
        bits = 8 * field.size
        copy[field.start : field.start + field.size] = (new % 2**bits).to_bytes(field.size, "little")
        return f"{kind} at {field.start} ({field.name}) from {old} to {new}"

    def _integer(self, source: random.Random, copy: bytearray) -> str:
        return self._set(source, copy, "integer")

    def _value(self, source: random.Random, copy: bytearray) -> str:
        field = self._pick(source, "value")
        if field.size == 4 and source.random() < 0.3:
            number = source.choice((float("nan"), float("inf"), -1.0, 0.0, 1e38, 1e-40))
            copy[field.start : field.start + 4] = struct.pack("<f", number)
            return f"value at {field.start} ({field.name}) to {number}"
        return self._set(source, copy, "value")

    def _text(self, source: random.Random, copy: bytearray) -> str:
        """Other text of another length, its length told truly."""
        field = self._pick(source, "text")
        text = source.choice((b"", *_TEXTS, bytes(source.randrange(256) for _ in range(source.randrange(1, 40)))))
        return self._replace(copy, field, text * source.choice((1, 1, 1, 50)))

    def _template(self, source: random.Random, copy: bytearray) -> str:
        for field in self._layout.fields:
            if field.kind == "text" and field.name == "tokenizer.chat_template":
                template = source.choice(_TEMPLATES)
                old = bytes(copy[field.start : field.start + field.size])
                return self._replace(copy, field, source.choice((template, template + old, old + template)))
        return self._text(source, copy)

    def _replace(self, copy: bytearray, field: Field, text: bytes) -> str:
        # What follows keeps its alignment, so that the tensors stay where they are said to be.
        copy[field.start - 8 : field.start] = len(text).to_bytes(8, "little")
        copy[field.start : field.start + field.size] = text
        padding = -self._layout.end % 32
        begin = self._layout.end + len(text) - field.size
        copy[begin : begin + padding] = bytes(-begin % 32)
        return f"text at {field.start} ({field.name}) to {text[:40]!r}"

    def _header_bits(self, source: random.Random, copy: bytearray) -> str:
        places = [source.randrange(min(self._layout.end, len(copy))) for _ in range(source.randrange(1, 9))]
        for place in places:
            copy[place] ^= 1 << source.randrange(8)
        return f"bits at {places}"

    def _header_bytes(self, source: random.Random, copy: bytearray) -> str:
        start, size = source.randrange(self._layout.end), source.choice((1, 2, 4, 8, 64, 1024))
        filling = source.choice((bytes(size), b"\xff" * size, source.randbytes(size)))
        copy[start : start + size] = filling
        return f"{size} bytes at {start} to {filling[:4]!r}..."

    def _body(self, source: random.Random, copy: bytearray) -> str:
        size = source.choice((1, 16, 1024, 65536, len(copy)))
        start = source.randrange(self._layout.end, len(copy))
        size = min(size, len(copy) - start)
        nan = b"\x00\x00\xc0\x7f" * (size // 4 + 1)
        copy[start : start + size] = source.choice((bytes(size), b"\xff" * size, source.randbytes(size), nan[:size]))
        return f"{size} bytes of weights at {start}"

    def _truncated(self, source: random.Random, copy: bytearray) -> str:
        most = self._layout.end if source.random() < 0.6 else len(copy)
        size = source.randrange(most)
        del copy[size:]
        return f"truncated to {size}"

    def _block(self, source: random.Random, copy: bytearray) -> str:
        end = self._layout.end if source.random() < 0.7 else len(copy)
        start, size = source.randrange(end), source.choice((1, 8, 32, 256, 4096))
        block = copy[start : start + size]
        if source.random() < 0.5:
            copy[start:start] = block
            return f"{size} bytes at {start} twice"
        del copy[start : start + size]
        return f"{size} bytes at {start} left out"
