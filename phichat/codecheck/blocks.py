"""Code blocks of a Markdown answer, as CommonMark reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phichat.codecheck.language_detection import looks_like_python, looks_like_shell
from phichat.codecheck.languages import MARKDOWN, PYTHON, SESSION_LABELS, canonical_language, is_generic_label

if TYPE_CHECKING:
    from markdown_it.token import Token

_MAX_NESTING = 8
"""Of Markdown blocks in Markdown blocks."""

_LABEL = re.compile(r"\{?\s*[.#]?(?:language-|lang(?:uage)?[-=])?\"?([\w+#./\\-]*)")
_DIRECTIVE = re.compile(r"\{(?:code-cell|code-block|code|sourcecode|jupyter-execute)\}\s*(\w*)")
_TITLE_ATTRIBUTE = re.compile(
    r"""(?:title|file_?name|file|name|path|src)\s*[=:]\s*["']?([\w./\\ -]+?\.\w{1,10})\b""", re.IGNORECASE
)
_FILE = re.compile(r"[\w./\\-]+\.[A-Za-z]\w{0,9}$")


@dataclass(frozen=True, slots=True)
class Block:
    """One code block.

    language: canonical, "" for code of an unknown language, None for data and output.
    start_line: of its first code line in the answer, from 1. is_open: the answer ends before the closing fence,
    so the last line may be incomplete. is_session: lines without a prompt are output. title: file name, mostly "".
    """

    language: str | None
    start_line: int
    code: str
    is_open: bool = False
    is_session: bool = False
    title: str = ""


@dataclass(frozen=True, slots=True)
class Prose:
    """A run of text outside code blocks. start_line: in the answer, from 1."""

    text: str
    start_line: int


def split_answer(text: str) -> tuple[Sequence[Block], Sequence[Prose]]:
    """Return the blocks and the prose of an answer, in order of appearance."""
    parts = list(_iter_parts(text.removeprefix("\ufeff"), 1, 0))
    blocks = [part for part in parts if isinstance(part, Block)]
    prose = [part for part in parts if isinstance(part, Prose)]
    # Without fences, an indented block may be the inside of a program that the answer consists of.
    has_fences = "```" in text or "~~~" in text
    if not has_fences or not any(block.language for block in blocks):
        unfenced = _unfenced_code(text)
        fenced = [one for one in blocks if not _overlaps(one, unfenced)]
        blocks = sorted((*unfenced, *fenced), key=lambda one: one.start_line)
        prose = [one for one in prose if not _overlaps(one, unfenced)]
    return blocks, prose


def find_fenced_code(text: str) -> list[str]:
    """Return the contents of the fenced blocks, in order of appearance."""
    return [token.content for token in _parse_tokens(text) if token.type == "fence"]


def _parse_tokens(text: str) -> list[Token]:
    from markdown_it import MarkdownIt

    # Only blocks are needed. Each level of nesting costs a pass over its lines, and real answers nest less.
    return MarkdownIt("commonmark", {"maxNesting": 12}).disable(["inline", "text_join"]).parse(text)


def _iter_parts(text: str, first_line: int, depth: int) -> Iterator[Block | Prose]:
    last_line = text.rstrip().count("\n") + 1
    for token in _parse_tokens(text):
        if token.map is None:
            continue
        start, end = token.map
        if token.type == "fence":
            lines = token.content.count("\n") + (not token.content.endswith("\n") and bool(token.content))
            is_open = end - start - 1 == lines and end >= last_line
            block = _parse_fence(token.info, token.content, first_line + start + 1)
            if is_open:
                # markdown-it ends every line; the answer may not.
                ends_line = text.rstrip(" \t").endswith("\n")
                block = replace(block, is_open=True, code=block.code if ends_line else block.code.removesuffix("\n"))
            if block.language == MARKDOWN:
                if depth < _MAX_NESTING:
                    yield from _iter_parts(block.code, block.start_line, depth + 1)
            else:
                yield block
        elif token.type == "code_block":
            # The token begins with the first line that is not blank.
            yield _detect_block(token.content, first_line + start)
        elif token.type in ("inline", "html_block"):
            yield Prose(token.content, first_line + start)


def _parse_fence(info: str, code: str, line: int) -> Block:
    info = info.strip()
    title_match = _TITLE_ATTRIBUTE.search(info)
    title = title_match[1] if title_match else ""
    if directive := _DIRECTIVE.match(info):
        label, trailing = directive[1] or PYTHON, ""
    else:
        label_match = _LABEL.match(info)
        label, trailing = (label_match[1], info[label_match.end() :]) if label_match else ("", "")
    words = (trailing[1:] if trailing.startswith(":") else trailing.strip(" }")).split()
    if not title and words and _FILE.match(words[0]):
        title = words[0]
    language = canonical_language(label)
    if language == "" and _FILE.match(label):
        title, language = title or label, canonical_language(label.rpartition(".")[2])
    if language == "":
        return replace(_detect_block(code, line, may_be_shell=is_generic_label(label)), title=title)
    return Block(language, line, code, is_session=label.lower() in SESSION_LABELS, title=title)


def _detect_block(code: str, line: int, *, may_be_shell: bool = True) -> Block:
    if looks_like_python(code, unmarked=False):
        return Block(PYTHON, line, code)
    if may_be_shell and looks_like_shell(code):
        return Block("bash", line, code)
    return Block("", line, code)


def _overlaps(part: Block | Prose, blocks: Sequence[Block]) -> bool:
    starts = ((block.start_line, len(block.code.splitlines())) for block in blocks)
    return any(start <= part.start_line < start + length for start, length in starts)


_MAX_UNFENCED_CHARS = 100_000
_CODE_START = re.compile(
    r"(?:import \w[\w.]*(?: as \w+)?(?:, ?\w[\w. ]*)*\s*(?:#.*)?$|from [\w.]+ import [\w(*]|(?:async )?def \w+\("
    r"|class \w+[(:]|@\w+|#!/|\"\"\"|>>> \w"
    r"|# \S|[a-zA-Z_]\w* = \S|print\(|for \w[\w, ]* in .*:\s*$"
    r"|with .* as \w+:\s*$|if __name__)"
)
_MAX_ATTEMPTS = 24


def _unfenced_code(text: str) -> list[Block]:
    """Find Python without any fence: the whole answer, or runs of its paragraphs."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if len(text) > _MAX_UNFENCED_CHARS:
        return []
    if text.strip() and looks_like_python(text):
        skipped = len(text) - len(text.lstrip("\n"))
        return [Block(PYTHON, 1 + skipped, text[skipped:], is_open=True)]
    lines = text.split("\n")
    blocks: list[Block] = []
    index = attempts = 0
    while index < len(lines) and attempts < _MAX_ATTEMPTS:
        if not _CODE_START.match(lines[index]):
            index += 1
            continue
        end_lines = [end for end in range(index + 1, len(lines) + 1) if end == len(lines) or not lines[end].strip()]
        for end in reversed(end_lines[:_MAX_ATTEMPTS]):
            attempts += 1
            code = "\n".join(lines[index:end])
            if looks_like_python(code):
                blocks.append(Block(PYTHON, index + 1, code, is_open=end == len(lines)))
                index = end
                break
        else:
            index = end_lines[0]
    return blocks
