"""Markdown of somebody else's, made so that it stays in its place.

A model's answer is worth rendering, but may leave a fence open, hold HTML (a comment that is never closed,
a <details>, a <script>) that swallows what follows, or headings that look like those of the document. HTML
is switched off by a backslash, a heading of the first level becomes one of the second, an open fence is
closed, and a parser then proves the result; what it does not prove is not used.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST = 100_000
"""Characters; and the longest line has a tenth. Parsers of Markdown are not linear in all that can be written."""

_HEADING = re.compile(r"^ {0,3}(?:#|=+\s*$)", re.MULTILINE)
_OPENS = re.compile(r"(?<!\\)\\*(?P<open><)(?=[A-Za-z/!?])(?!(?:https?://|mailto:)[^\s<>\\]*>)")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Contained:
    """text with characters put in at the offsets `inserted`, counted in text itself; `closing` ends its open fence."""

    text: str
    inserted: tuple[int, ...]
    closing: str


def contained(text: str, marker: str) -> Contained | None:
    """text without headings of the first level, and so that `marker`, an HTML comment after it and a blank
    line, is the only HTML that a parser sees and stands at the top level; None where that cannot be proven."""
    if not reasonable(text):
        return None
    pieces: list[str] = []
    inserted: list[int] = []
    last = length = 0
    for at, character in sorted([*_html_starts(text), *_headings(text)]):
        pieces += text[last:at], character
        length += at - last + 1
        inserted.append(length - 1)
        last = at
    safe = "".join(pieces) + text[last:]
    if _proven(safe, marker):
        return Contained(safe, tuple(inserted), "")
    tokens = _parser(html=True).parse(safe)
    if tokens and tokens[-1].type == "fence" and tokens[-1].level == 0:
        closing = "\n" + tokens[-1].markup
        if _proven(safe + closing, marker):
            return Contained(safe, tuple(inserted), closing)
    return None


def reasonable(text: str) -> bool:
    """Whether it is worth parsing at all."""
    return len(text) <= LONGEST and max(map(len, text.split("\n"))) <= LONGEST // 10


@cache
def _parser(*, html: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": html}).enable(["table", "strikethrough"])


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def _headings(text: str) -> Iterator[tuple[int, str]]:
    """What makes headings of the first level ones of the second, or text where they are underlined."""
    if not _HEADING.search(text):
        return
    starts = _line_starts(text)
    for token in _parser(html=False).parse(text):
        if token.type == "heading_open" and token.tag == "h1" and token.level == 0 and token.map:
            atx = token.markup == "#"
            line = token.map[0] if atx else token.map[1] - 1
            yield text.index(token.markup, starts[line]), "#" if atx else "\\"


def _html_starts(text: str) -> Iterator[tuple[int, str]]:
    """Where HTML could begin, outside code blocks and code spans, and what keeps it from doing so."""
    if "<" not in text:
        return
    starts = _line_starts(text)
    code = set[int]()
    spans: list[tuple[int, int]] = []
    for token in _parser(html=False).parse(text):
        if token.map is None:
            continue
        if token.type in ("fence", "code_block"):
            code.update(range(*token.map))
        elif token.type == "inline" and "`" in token.content:
            begin, end = starts[token.map[0]], starts[token.map[1]]
            spans += [(begin + found.start(), begin + found.end()) for found in _CODE_SPAN.finditer(text[begin:end])]
    spans.sort()
    for match in _OPENS.finditer(text):
        at = match.start("open")
        span = bisect_right(spans, (at, len(text))) - 1
        escaped = (at - match.start()) % 2
        if bisect_right(starts, at) - 1 not in code and not escaped and (span < 0 or spans[span][1] <= at):
            yield at, "\\"


def _proven(text: str, marker: str) -> bool:
    tokens = _parser(html=True).parse(f"<!-- -->\n\n{text}\n\n{marker}\n")
    if any(token.type == "heading_open" and token.tag == "h1" and token.level == 0 for token in tokens):
        return False
    html = [token for token in tokens if _holds_html(token)]
    return len(html) == 2 and tokens[-1] is html[1] and html[1].level == 0 and html[1].content.strip() == marker


def _holds_html(token: Token) -> bool:
    return token.type == "html_block" or any(child.type == "html_inline" for child in token.children or ())
