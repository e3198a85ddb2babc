"""The parts that a conversation is shown in, each a value that is rendered once per width.

An answer is cut at its top-level Markdown blocks. All but the last one are final while it grows, so
that only the end of a streaming answer is parsed and rendered again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

_CODE_CHUNK = 50
"""Lines of code that are highlighted at once: what is open at the end of a long block stays cheap."""
_LARGE = 2_000
"""Characters above which a list or a table is cut, for the same reason."""
_PLAIN_ABOVE = 20_000
"""Characters of one block above which it is shown as it is: wrapping costs more than it gives."""
_FENCE = re.compile(r"(`{3,}(?!.*`)|~{3,})(.*)\n")


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
    """A top-level block of an answer, or a part of a large one.

    line, last_line: where it stands there, from 1. code: of a code block. heading: of the table of which
    this is a later part, two lines.
    """

    pieces: tuple[Piece, ...]
    line: int
    last_line: int
    is_code: bool = False
    code: str = ""
    language: str = ""
    heading: str = ""


class GrowingAnswer:
    """The blocks of a text that grows at its end."""

    def __init__(self) -> None:
        self._final: list[Block] = []
        self._last: list[Block] = []
        self._start = 0
        self._line = 1
        self._heading = ""
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
        found = list(_blocks(tail, lines, self._line, self._heading))
        if len(found) > 1:
            begin = found[-1].line - self._line
            self._final += found[:-1]
            self._start += sum(len(line) + 1 for line in lines[:begin])
            self._line += begin
            self._heading = found[-1].heading
        self._last = found[-1:]


def _blocks(text: str, lines: Sequence[str], first_line: int, heading: str) -> Iterator[Block]:
    from phichat.tui.markdown import parser

    fence = _FENCE.match(text)
    if fence and not re.compile(rf"^ {{0,3}}{fence[1]}", re.MULTILINE).search(text, fence.end()):
        # An open block of code. The parser would go through all of it, character by character, each time.
        yield _fenced(text[fence.end() :], fence[2], first_line, first_line + len(lines) - 1 - (not lines[-1]))
        return
    # Where the text begins within a table the heading is put above it.
    above = heading.count("\n")
    tokens = parser().parse(heading + text)
    for index, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        begin, end = max(0, token.map[0] - above), token.map[1] - above
        line = first_line + begin
        if token.type == "fence":
            yield _fenced(token.content, token.info, line, first_line + end - 1)
            continue
        is_table = token.type == "table_open"
        known = heading if is_table and index == 0 else ""
        cuts = _cuts(lines, [begin, *(place - above for place in _places(tokens, index))])
        for cut, after in zip(cuts, [*cuts[1:], end], strict=True):
            if is_table and cut != begin:
                known = known or "".join(f"{one}\n" for one in lines[begin : begin + 2])
            source = known + "\n".join(lines[cut:after])
            kind = Kind.PLAIN if len(source) > _PLAIN_ABOVE else Kind.MARKDOWN
            piece = Piece(kind, source, line=first_line + cut)
            is_code = token.type == "code_block"
            last_line = first_line + after - 1
            yield Block((piece,), piece.line, last_line, is_code=is_code, code=token.content, heading=known)


def _places(tokens: Sequence[Token], index: int) -> Iterator[int]:
    """The lines where a list or a table can be cut."""
    part = {"bullet_list_open": "list_item_open", "ordered_list_open": "list_item_open", "table_open": "tr_open"}
    wanted = part.get(tokens[index].type)
    heads = 1 if wanted == "tr_open" else 0
    for token in takewhile(lambda token: token.level > 0, tokens[index + 1 :]):
        if token.type == wanted and token.level <= 2 and token.map is not None:
            if heads:
                heads -= 1
            else:
                yield token.map[0]


def _cuts(lines: Sequence[str], places: Sequence[int]) -> list[int]:
    """Of these lines those where a part begins, so that each but the last is large."""
    cuts, size, at = [places[0]], 0, places[0]
    for place in places[1:]:
        size += sum(len(line) for line in lines[at:place])
        at = place
        if size >= _LARGE:
            cuts.append(place)
            size = 0
    return cuts


def _fenced(content: str, info: str, line: int, last_line: int) -> Block:
    language = next(iter(info.split()), "")
    pieces = tuple(_code(content, language, line + 1))
    return Block(pieces, line, last_line, is_code=True, code=content, language=language)


def _code(content: str, language: str, line: int) -> Iterator[Piece]:
    lines = content.removesuffix("\n").split("\n")
    for begin in range(0, len(lines), _CODE_CHUNK):
        yield Piece(Kind.CODE, "\n".join(lines[begin : begin + _CODE_CHUNK]), language, line + begin)
