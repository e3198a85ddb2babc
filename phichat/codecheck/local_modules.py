"""Which modules are files of the answer itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from phichat.codecheck.blocks import Block, Prose
from phichat.codecheck.languages import PYTHON

_PATH = r"(?<![\w.-])((?:[\w.-]{1,60}[/\\]){0,8}\w{1,60})\.pyi?\b(?![\w(])"
_MENTIONED_PATH = re.compile(_PATH)
_PATH_HEADING = re.compile(
    r"\s*(?:#{1,6}\s+|[-*+]\s+|\d{1,3}[.)]\s+)?[*_`(\[\"' ]*(?:\w+\s*:?\s*)?[*_`(\[\"']*"
    + _PATH
    + r"[*_`)\]\"': ]*\s*$"
)
_PATH_COMMENT = re.compile(
    r"\s*(?:#|//|\"\"\")[\s:*-]*(?:file(?:name)?|path|in|save as)?[\s:`*]*"
    + _PATH
    + r"[`*\"']*\s*(?:\(.*|[-:–—].*|\"\"\")?$",
    re.I,
)
_TREE_LINE = re.compile(r"[├└│|`+][^\w\n]{0,80}([\w-]{1,60})(/|\.pyi?)?[ \t]*(?:#.*|\(.*|<-.*|←.*)?$", re.MULTILINE)
_WRITTEN_PATH = re.compile(r"(?:>|\btouch|\bnano|\bvim|\bcode|\btee)[ \t]+" + _PATH)
_PLACEHOLDER_NAMES = re.compile(
    r"(?:your|my)_?(?:own_?)?(?:module|package|pkg|app|application|project|script|file|code|lib|library|class|models?|function|program|site)s?"
    r"(?:_?(?:name|file|here|\d))?|(?:module|package|script|file)_?(?:name|\d|[ab])|(?:some|other|another|example|sample)_(?:module|package|script|file)",
    re.IGNORECASE,
)
_MAX_CHARS = 300_000


def find_local_modules(
    blocks: Sequence[Block], prose: Sequence[Prose], is_popular: Callable[[str], bool]
) -> frozenset[str]:
    """Top-level names of the modules that the answer shows or names as files of the same project.

    A file that is only mentioned is no module when a popular project bears its name: by `discord.py`
    nobody means a file.
    """
    paths: set[str] = set()
    mentioned: set[str] = set()
    for block in blocks:
        head = block.code[:2000].lstrip("\n ").split("\n", 2)[:2]
        paths.update(_MENTIONED_PATH.findall(block.title))
        if block.language == PYTHON:
            paths.update(match[1] for line in head if (match := _PATH_COMMENT.match(line)))
            paths.update(re.findall(r"%%(?:writefile|file)\s+(?:-a\s+)?" + _PATH, block.code[:2000]))
        elif not block.language and re.search("[├└│]", block.code[:_MAX_CHARS]):
            paths.update(
                name for name, ending in _TREE_LINE.findall(block.code[:_MAX_CHARS]) if ending or "." not in name
            )
            paths.update(_MENTIONED_PATH.findall(block.code[:_MAX_CHARS]))
        elif block.language == "bash":
            paths.update(_WRITTEN_PATH.findall(block.code[:_MAX_CHARS]))
            mentioned.update(_MENTIONED_PATH.findall(block.code[:_MAX_CHARS]))
    for part_of_prose in prose:
        text = part_of_prose.text[:_MAX_CHARS]
        if ".py" not in text:
            continue
        for line in text.split("\n"):
            if len(line) > 1000:
                continue
            if match := _PATH_HEADING.match(line):
                paths.add(match[1])
            mentioned.update(_MENTIONED_PATH.findall(line))
    names = {part for path in paths for part in _module_names(path)}
    return frozenset(
        names | {part for path in mentioned for part in _module_names(path) if part in names or not is_popular(part)}
    )


def is_placeholder(module: str) -> bool:
    """Whether a name stands for a module of the reader's: `your_module`, `my_app`."""
    return _PLACEHOLDER_NAMES.fullmatch(module) is not None


def _module_names(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part.isidentifier()]
