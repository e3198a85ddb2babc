"""The parts that a conversation is shown in, each a value that is rendered once per width.

An answer is cut at its top-level Markdown blocks. All but the last one are final while it grows, so
that only the end of a streaming answer is parsed and rendered again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

_CODE_CHUNK = 200
"""Lines of code that are highlighted at once: what is open at the end of a long block stays cheap."""
_PLAIN_ABOVE = 20_000
"""Characters of one block above which it is shown as it is: wrapping costs more than it gives."""


class Kind(Enum):
    """What a piece is, and so how it looks."""

    PROMPT = auto()
    MARKDOWN = auto()
    PLAIN = auto()
    CODE = auto()
    REASONING = auto()
    NOTICE = auto()
    WARNING = auto()
    ERROR = auto()
    META = auto()


@dataclass(frozen=True, slots=True)
class Piece:
    """Foreign text, not yet sanitised. language: of code, as its label says. line: in the answer, from 1."""

    kind: Kind
    text: str
    language: str = ""
    line: int = 0


@dataclass(frozen=True, slots=True)
class Block:
    """A top-level block of an answer. line, last_line: where it stands there, from 1. code: of a code block."""

    pieces: tuple[Piece, ...]
    line: int
    last_line: int
    is_code: bool = False
    code: str = ""
    language: str = ""


class GrowingAnswer:
    """The blocks of a text that grows at its end."""

    def __init__(self) -> None:
        self._final: list[Block] = []
        self._last: list[Block] = []
        self._start = 0
        self._line = 1
        self._seen = 0

    @property
    def blocks(self) -> Sequence[Block]:
        return [*self._final, *self._last]

    def update(self, text: str) -> None:
        """The text so far; it begins with what was given before."""
        if len(text) == self._seen:
            return
        self._seen = len(text)
        tail = text[self._start :]
        lines = tail.split("\n")
        found = list(_blocks(tail, lines, self._line))
        if len(found) > 1:
            begin = found[-1].line - self._line
            self._final += found[:-1]
            self._start += sum(len(line) + 1 for line in lines[:begin])
            self._line += begin
        self._last = found[-1:]


def _blocks(text: str, lines: Sequence[str], first_line: int) -> Iterator[Block]:
    from phichat.tui.markdown import parser

    for token in parser().parse(text):
        if token.level or token.map is None or token.nesting < 0:
            continue
        begin, end = token.map
        line = first_line + begin
        if token.type == "fence":
            language = token.info.split()[0] if token.info.split() else ""
            pieces = tuple(_code(token.content, language, line + 1))
            yield Block(pieces, line, first_line + end - 1, is_code=True, code=token.content, language=language)
        else:
            source = "\n".join(lines[begin:end])
            kind = Kind.PLAIN if len(source) > _PLAIN_ABOVE else Kind.MARKDOWN
            piece = Piece(kind, source, line=line)
            yield Block((piece,), line, first_line + end - 1, is_code=token.type == "code_block", code=token.content)


def _code(content: str, language: str, line: int) -> Iterator[Piece]:
    lines = content.removesuffix("\n").split("\n")
    for begin in range(0, len(lines), _CODE_CHUNK):
        yield Piece(Kind.CODE, "\n".join(lines[begin : begin + _CODE_CHUNK]), language, line + begin)
