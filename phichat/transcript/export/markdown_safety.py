"""Makes untrusted Markdown safe to embed in a document.

A model's answer is worth rendering, but may leave a fence open, hold HTML (a comment that is never closed,
a <details>, a <script>) that swallows the text after it, or headings that look like those of the document.
HTML is disabled by a backslash, a heading of the first level becomes one of the second, an open fence is
closed, and a parser then verifies the result; text that fails the verification is shown literally.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

MAX_CHARS = 100_000
"""Of a text; a line may have a tenth of it. Markdown parsers are not linear for every input."""

_TOP_HEADING = re.compile(r"^ {0,3}(?:#|=+\s*$)", re.MULTILINE)
_HTML_OPENING = re.compile(r"(?<!\\)\\*(?P<open><)(?=[A-Za-z/!?])(?!(?:https?://|mailto:)[^\s<>\\]*>)")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SafeMarkdown:
    """Text with one character inserted at each of the offsets, counted in `text`; the fence ends an open one."""

    text: str
    inserted_offsets: tuple[int, ...]
    closing_fence: str


def make_safe(text: str, marker: str) -> SafeMarkdown | None:
    """Return text without headings of the first level, in which a parser sees no HTML but the comment `marker`,
    which follows it at the top level; None where that cannot be verified."""
    if not is_parseable(text):
        return None
    edits = sorted([*_html_edits(text), *_heading_edits(text)])
    inserted = tuple(offset + earlier for earlier, (offset, _) in enumerate(edits))
    pieces = [text[start:end] for start, end in pairwise([0, *(offset for offset, _ in edits), len(text)])]
    safe = pieces[0] + "".join(character + piece for (_, character), piece in zip(edits, pieces[1:], strict=True))
    if _verify(safe, marker):
        return SafeMarkdown(safe, inserted, "")
    tokens = _make_parser(html=True).parse(safe)
    if tokens and tokens[-1].type == "fence" and tokens[-1].level == 0:
        closing = "\n" + tokens[-1].markup
        if _verify(safe + closing, marker):
            return SafeMarkdown(safe, inserted, closing)
    return None


def is_parseable(text: str) -> bool:
    """Return whether a text is short enough to be parsed."""
    return len(text) <= MAX_CHARS and max(map(len, text.split("\n"))) <= MAX_CHARS // 10


@cache
def _make_parser(*, html: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": html}).enable(["table", "strikethrough"])


def _line_offsets(text: str) -> list[int]:
    return list(accumulate((len(line) + 1 for line in text.split("\n")), initial=0))


def _heading_edits(text: str) -> Iterator[tuple[int, str]]:
    """Yield the edits that turn headings of the first level into the second, or text where underlined."""
    if not _TOP_HEADING.search(text):
        return
    starts = _line_offsets(text)
    for token in _make_parser(html=False).parse(text):
        if _is_top_heading(token) and token.map:
            atx = token.markup == "#"
            line = token.map[0] if atx else token.map[1] - 1
            yield text.index(token.markup, starts[line]), "#" if atx else "\\"


def _html_edits(text: str) -> Iterator[tuple[int, str]]:
    """Yield the edits that disable HTML outside code blocks and code spans."""
    if "<" not in text:
        return
    starts = _line_offsets(text)
    code_lines = set[int]()
    spans: list[tuple[int, int]] = []
    for token in _make_parser(html=False).parse(text):
        if token.type in ("fence", "code_block") and token.map:
            code_lines.update(range(*token.map))
        elif token.type == "inline" and token.map and "`" in token.content:
            start, end = starts[token.map[0]], starts[token.map[1]]
            spans += [(start + found.start(), start + found.end()) for found in _CODE_SPAN.finditer(text[start:end])]
    spans.sort()
    for match in _HTML_OPENING.finditer(text):
        offset = match.start("open")
        span = bisect_right(spans, (offset, len(text))) - 1
        is_code = bisect_right(starts, offset) - 1 in code_lines or (span >= 0 and offset < spans[span][1])
        is_escaped = (offset - match.start()) % 2
        if not is_code and not is_escaped:
            yield offset, "\\"


def _verify(text: str, marker: str) -> bool:
    tokens = _make_parser(html=True).parse(f"<!-- -->\n\n{text}\n\n{marker}\n")
    if any(map(_is_top_heading, tokens)):
        return False
    html = [token for token in tokens if _contains_html(token)]
    return len(html) == 2 and tokens[-1] is html[1] and html[1].level == 0 and html[1].content.strip() == marker


def _is_top_heading(token: Token) -> bool:
    return token.type == "heading_open" and token.tag == "h1" and token.level == 0


def _contains_html(token: Token) -> bool:
    return token.type == "html_block" or any(child.type == "html_inline" for child in token.children or ())
