"""Markdown of somebody else's, made so that it ends where it should.

A model's answer is worth rendering, but may leave a fence open or hold HTML (a comment that is never
closed, a <details>, a <script>) that swallows what follows. HTML is switched off by a backslash, an open
fence is closed, and a parser then proves the result; what it does not prove is not used.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

LONGEST = 100_000
"""Characters; and the longest line has a tenth. Parsers of Markdown are not linear in all that can be written."""

_OPENS = re.compile(r"(?<!\\)\\*(?P<open><)(?=[A-Za-z/!?])(?!(?:https?://|mailto:)[^\s<>\\]*>)")
_CODE_SPAN = re.compile(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Contained:
    """text with backslashes at the offsets `inserted`, counted in text itself; `closing` ends its open fence."""

    text: str
    inserted: tuple[int, ...]
    closing: str


def contained(text: str, marker: str) -> Contained | None:
    """text so that `marker`, an HTML comment after it and a blank line, is the only HTML that a parser
    sees and stands at the top level; None where that cannot be proven."""
    if not reasonable(text):
        return None
    pieces: list[str] = []
    inserted: list[int] = []
    last = length = 0
    for at in _html_starts(text) if "<" in text else ():
        pieces += text[last:at], "\\"
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


def _html_starts(text: str) -> list[int]:
    """Where HTML could begin: outside code blocks and code spans."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
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
    found = []
    for match in _OPENS.finditer(text):
        at = match.start("open")
        span = bisect_right(spans, (at, len(text))) - 1
        escaped = (at - match.start()) % 2
        if bisect_right(starts, at) - 1 not in code and not escaped and (span < 0 or spans[span][1] <= at):
            found.append(at)
    return found


def _proven(text: str, marker: str) -> bool:
    tokens = _parser(html=True).parse(f"<!-- -->\n\n{text}\n\n{marker}\n")
    html = [token for token in tokens if _holds_html(token)]
    return len(html) == 2 and tokens[-1] is html[1] and html[1].level == 0 and html[1].content.strip() == marker


def _holds_html(token: Token) -> bool:
    return token.type == "html_block" or any(child.type == "html_inline" for child in token.children or ())
