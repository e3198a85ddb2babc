"""Modules that are files of the answer itself."""

import re
from collections.abc import Callable, Sequence

from phichat.codecheck.blocks import Block, Prose
from phichat.codecheck.languages import PYTHON

_PATH = r"(?<![\w.-])((?:[\w.-]{1,60}[/\\]){0,8}\w{1,60})\.pyi?\b(?![\w(])"
_MENTIONED_PATH = re.compile(_PATH)
_PATH_HEADING = re.compile(
    rf"\s*(?:#{{1,6}}\s+|[-*+]\s+|\d{{1,3}}[.)]\s+)?[*_`(\[\"' ]*(?:\w+\s*:?\s*)?[*_`(\[\"']*{_PATH}[*_`)\]\"': ]*\s*$"
)
_PATH_COMMENT = re.compile(
    r"\s*(?:#|//|\"\"\")[\s:*-]*(?:file(?:name)?|path|in|save as)?[\s:`*]*"
    rf"{_PATH}[`*\"']*\s*(?:\(.*|[-:–—].*|\"\"\")?$",
    re.IGNORECASE,
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
    """Return the names of modules and packages that the answer shows or names as files of the same project.

    A file that is only mentioned does not count if a popular project has its name, as in `discord.py`.
    """
    paths: set[str] = set()
    mentioned: set[str] = set()
    for block in blocks:
        code = block.code[:_MAX_CHARS]
        paths.update(_MENTIONED_PATH.findall(block.title))
        if block.language == PYTHON:
            head = code[:2000].lstrip("\n ").split("\n", 2)[:2]
            paths.update(match[1] for line in head if (match := _PATH_COMMENT.match(line)))
            paths.update(re.findall(r"%%(?:writefile|file)\s+(?:-a\s+)?" + _PATH, code[:2000]))
        elif not block.language and re.search("[├└│]", code):
            paths.update(name for name, ending in _TREE_LINE.findall(code) if ending or "." not in name)
            paths.update(_MENTIONED_PATH.findall(code))
        elif block.language == "bash":
            paths.update(_WRITTEN_PATH.findall(code))
            mentioned.update(_MENTIONED_PATH.findall(code))
    lines = [line for part in prose for line in part.text[:_MAX_CHARS].split("\n")]
    for line in lines:
        if ".py" in line and len(line) <= 1000:
            if match := _PATH_HEADING.match(line):
                paths.add(match[1])
            mentioned.update(_MENTIONED_PATH.findall(line))
    names = _module_names(paths)
    return frozenset(names | {name for name in _module_names(mentioned) if not is_popular(name)})


def is_placeholder(module: str) -> bool:
    """Return True for a name that stands for a module of the reader's: `your_module`, `my_app`."""
    return _PLACEHOLDER_NAMES.fullmatch(module) is not None


def _module_names(paths: set[str]) -> set[str]:
    return {part for path in paths for part in re.split(r"[/\\]", path) if part.isidentifier()}
