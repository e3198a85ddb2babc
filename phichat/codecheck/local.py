"""Which modules are files of the answer itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from phichat.codecheck.blocks import Block, Prose
from phichat.codecheck.languages import PYTHON

_PATH = r"(?<![\w.-])((?:[\w.-]{1,60}[/\\]){0,8}\w{1,60})\.pyi?\b(?![\w(])"
_MENTIONED = re.compile(_PATH)
_HEADING = re.compile(
    r"\s*(?:#{1,6}\s+|[-*+]\s+|\d{1,3}[.)]\s+)?[*_`(\[\"' ]*(?:\w+\s*:?\s*)?[*_`(\[\"']*"
    + _PATH
    + r"[*_`)\]\"': ]*\s*$"
)
_FIRST_LINE = re.compile(
    r"\s*(?:#|//|\"\"\")[\s:*-]*(?:file(?:name)?|path|in|save as)?[\s:`*]*"
    + _PATH
    + r"[`*\"']*\s*(?:\(.*|[-:–—].*|\"\"\")?$",
    re.I,
)
_TREE = re.compile(r"[├└│|`+][^\w\n]{0,80}([\w-]{1,60})(/|\.pyi?)?[ \t]*(?:#.*|\(.*|<-.*|←.*)?$", re.MULTILINE)
_WRITTEN = re.compile(r"(?:>|\btouch|\bnano|\bvim|\bcode|\btee)[ \t]+" + _PATH)
_OWN = re.compile(
    r"(?:your|my)_?(?:own_?)?(?:module|package|pkg|app|application|project|script|file|code|lib|library|class|models?|function|program|site)s?"
    r"(?:_?(?:name|file|here|\d))?|(?:module|package|script|file)_?(?:name|\d|[ab])|(?:some|other|another|example|sample)_(?:module|package|script|file)",
    re.IGNORECASE,
)
_LONGEST = 300_000


def local_modules(blocks: Sequence[Block], prose: Sequence[Prose], is_popular: Callable[[str], bool]) -> frozenset[str]:
    """Top-level names of the modules that the answer shows or names as files of the same project.

    A file that is only mentioned is no module when a popular project bears its name: by `discord.py`
    nobody means a file.
    """
    paths: set[str] = set()
    mentioned: set[str] = set()
    for block in blocks:
        head = block.code[:2000].lstrip("\n ").split("\n", 2)[:2]
        paths.update(_MENTIONED.findall(block.title))
        if block.language == PYTHON:
            paths.update(found[1] for line in head if (found := _FIRST_LINE.match(line)))
            paths.update(re.findall(r"%%(?:writefile|file)\s+(?:-a\s+)?" + _PATH, block.code[:2000]))
        elif not block.language and re.search("[├└│]", block.code[:_LONGEST]):
            paths.update(name for name, ending in _TREE.findall(block.code[:_LONGEST]) if ending or "." not in name)
            paths.update(_MENTIONED.findall(block.code[:_LONGEST]))
        elif block.language == "bash":
            paths.update(_WRITTEN.findall(block.code[:_LONGEST]))
            mentioned.update(_MENTIONED.findall(block.code[:_LONGEST]))
    for run in prose:
        text = run.text[:_LONGEST]
        if ".py" not in text:
            continue
        for line in text.split("\n"):
            if len(line) > 1000:
                continue
            if found := _HEADING.match(line):
                paths.add(found[1])
            mentioned.update(_MENTIONED.findall(line))
    names = {part for path in paths for part in _parts(path)}
    return frozenset(
        names | {part for path in mentioned for part in _parts(path) if part in names or not is_popular(part)}
    )


def is_own(module: str) -> bool:
    """Whether a name stands for a module of the reader's: `your_module`, `my_app`."""
    return _OWN.fullmatch(module) is not None


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part.isidentifier()]
