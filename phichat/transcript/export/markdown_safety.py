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
    parts: list[str] = []
    inserted: list[int] = []
    copied_to = length = 0
    for offset, character in sorted([*_html_edits(text), *_heading_edits(text)]):
        parts += text[copied_to:offset], character
        length += offset - copied_to + 1
        inserted.append(length - 1)
        copied_to = offset
    safe = "".join(parts) + text[copied_to:]
    if _verify(safe, marker):
        return SafeMarkdown(safe, tuple(inserted), "")
    tokens = _make_parser(html=True).parse(safe)
    if tokens and tokens[-1].type == "fence" and tokens[-1].level == 0:
        closing = "\n" + tokens[-1].markup
        if _verify(safe + closing, marker):
            return SafeMarkdown(safe, tuple(inserted), closing)
    return None


def is_parseable(text: str) -> bool:
    """Return whether a text is short enough to be parsed."""
    return len(text) <= MAX_CHARS and max(map(len, text.split("\n"))) <= MAX_CHARS // 10


@cache
def _make_parser(*, html: bool) -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": html}).enable(["table", "strikethrough"])


def _line_offsets(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def _heading_edits(text: str) -> Iterator[tuple[int, str]]:
    """Yield the edits that turn headings of the first level into the second, or text where underlined."""
    if not _TOP_HEADING.search(text):
        return
    starts = _line_offsets(text)
    for token in _make_parser(html=False).parse(text):
        if token.type == "heading_open" and token.tag == "h1" and token.level == 0 and token.map:
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
        if token.map is None:
            continue
        if token.type in ("fence", "code_block"):
            code_lines.update(range(*token.map))
        elif token.type == "inline" and "`" in token.content:
            start, end = starts[token.map[0]], starts[token.map[1]]
            spans += [
                (start + span_match.start(), start + span_match.end())
                for span_match in _CODE_SPAN.finditer(text[start:end])
            ]
    spans.sort()
    for match in _HTML_OPENING.finditer(text):
        offset = match.start("open")
        span = bisect_right(spans, (offset, len(text))) - 1
        escaped = (offset - match.start()) % 2
        if (
            bisect_right(starts, offset) - 1 not in code_lines
            and not escaped
            and (span < 0 or spans[span][1] <= offset)
        ):
            yield offset, "\\"


def _verify(text: str, marker: str) -> bool:
    tokens = _make_parser(html=True).parse(f"<!-- -->\n\n{text}\n\n{marker}\n")
    if any(token.type == "heading_open" and token.tag == "h1" and token.level == 0 for token in tokens):
        return False
    html = [token for token in tokens if _contains_html(token)]
    return len(html) == 2 and tokens[-1] is html[1] and html[1].level == 0 and html[1].content.strip() == marker


def _contains_html(token: Token) -> bool:
    return token.type == "html_block" or any(child.type == "html_inline" for child in token.children or ())
