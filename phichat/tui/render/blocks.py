"""The items that a turn is rendered from, each a value that is rendered once per width.

An answer is split at its top-level Markdown blocks. While it grows all but the last block are final, so
only the end of a streaming answer is parsed and rendered again.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from itertools import islice, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it.token import Token

_CODE_CHUNK_LINES = 50
"""Lines of code highlighted at once, so that the growing end of a long block is cheap."""
_SPLIT_ABOVE_CHARS = 2_000
"""Characters above which a list or a table is split, for the same reason."""
_UNFORMATTED_ABOVE_CHARS = 20_000
"""Characters above which a block is shown as plain text, because formatting it takes too long."""
_FENCE = re.compile(r"(`{3,}(?!.*`)|~{3,})(.*)\n")


class ItemKind(Enum):
    """Kind of an item, which determines its style."""

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
class RenderItem:
    """Untrusted text, not yet sanitised. language: the label of code."""

    kind: ItemKind
    text: str
    language: str = ""


@dataclass(frozen=True, slots=True)
class AnswerBlock:
    """A top-level block of an answer, or a part of a large block.

    line, last_line: in the answer, from 1. table_header: the two header lines if this is a later part of a table.
    """

    items: tuple[RenderItem, ...]
    line: int
    last_line: int
    is_code: bool = False
    code: str = ""
    language: str = ""
    table_header: str = ""


class StreamingBlocks:
    """Blocks of a text that grows at its end."""

    def __init__(self) -> None:
        self._closed_blocks: list[AnswerBlock] = []
        self._open_blocks: list[AnswerBlock] = []
        self._tail_offset, self._tail_line, self._text_length = 0, 1, 0
        self._table_header = ""

    @property
    def blocks(self) -> Sequence[AnswerBlock]:
        return [*self._closed_blocks, *self._open_blocks]

    def update(self, text: str) -> None:
        """Parse the text so far, which starts with the text of the previous call."""
        if len(text) == self._text_length:
            return
        self._text_length, tail = len(text), text[self._tail_offset :]
        lines = tail.split("\n")
        blocks = list(_parse_blocks(tail, lines, self._tail_line, self._table_header))
        if len(blocks) > 1:
            start = blocks[-1].line - self._tail_line
            self._closed_blocks += blocks[:-1]
            self._tail_offset += sum(len(line) + 1 for line in lines[:start])
            self._tail_line += start
            self._table_header = blocks[-1].table_header
        self._open_blocks = blocks[-1:]


def _parse_blocks(text: str, lines: Sequence[str], first_line: int, table_header: str) -> Iterator[AnswerBlock]:
    from phichat.tui.render.markdown import get_parser

    fence = _FENCE.match(text)
    if fence and not re.compile(rf"^ {{0,3}}{fence[1]}", re.MULTILINE).search(text, fence.end()):
        # An unclosed block of code, which the parser would read again, character by character, each time.
        yield _fence_block(text[fence.end() :], fence[2], first_line, first_line + len(lines) - 1 - (not lines[-1]))
        return
    # A text that starts within a table is parsed with the header of the table.
    header_lines = table_header.count("\n")
    tokens = get_parser().parse(table_header + text)
    for index, token in enumerate(tokens):
        if token.level or token.map is None or token.nesting < 0:
            continue
        start, end = max(0, token.map[0] - header_lines), token.map[1] - header_lines
        line = first_line + start
        if token.type == "fence":
            yield _fence_block(token.content, token.info, line, first_line + end - 1)
            continue
        is_table = token.type == "table_open"
        part_header = table_header if is_table and index == 0 else ""
        split_points = [start, *(point - header_lines for point in _find_split_points(tokens, index))]
        part_starts = _choose_splits(lines, split_points)
        for part_start, part_end in zip(part_starts, [*part_starts[1:], end], strict=True):
            if is_table and part_start != start:
                part_header = part_header or "".join(f"{one}\n" for one in lines[start : start + 2])
            source = part_header + "\n".join(lines[part_start:part_end])
            kind = ItemKind.PLAIN if len(source) > _UNFORMATTED_ABOVE_CHARS else ItemKind.MARKDOWN
            yield AnswerBlock(
                (RenderItem(kind, source),),
                first_line + part_start,
                first_line + part_end - 1,
                is_code=token.type == "code_block",
                code=token.content,
                table_header=part_header,
            )


def _find_split_points(tokens: "Sequence[Token]", index: int) -> Iterator[int]:
    """Return the lines where a list or a table can be split."""
    child_types = {"bullet_list_open": "list_item_open", "ordered_list_open": "list_item_open", "table_open": "tr_open"}
    child_type = child_types.get(tokens[index].type)
    descendants = takewhile(lambda token: token.level > 0, tokens[index + 1 :])
    lines = (token.map[0] for token in descendants if token.type == child_type and token.level <= 2 and token.map)
    # The first row of a table is its header.
    return islice(lines, 1 if child_type == "tr_open" else 0, None)


def _choose_splits(lines: Sequence[str], split_points: Sequence[int]) -> list[int]:
    """Return those of the split points where a part starts, so that each part but the last is large."""
    splits, size, previous = [split_points[0]], 0, split_points[0]
    for point in split_points[1:]:
        size += sum(len(line) for line in lines[previous:point])
        previous = point
        if size >= _SPLIT_ABOVE_CHARS:
            splits.append(point)
            size = 0
    return splits


def _fence_block(content: str, info: str, line: int, last_line: int) -> AnswerBlock:
    language = next(iter(info.split()), "")
    lines = content.removesuffix("\n").split("\n")
    chunks = (lines[start : start + _CODE_CHUNK_LINES] for start in range(0, len(lines), _CODE_CHUNK_LINES))
    items = tuple(RenderItem(ItemKind.CODE, "\n".join(chunk), language) for chunk in chunks)
    return AnswerBlock(items, line, last_line, is_code=True, code=content, language=language)
