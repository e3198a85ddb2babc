"""From a block as it was written to Python that can be parsed, every line where it was."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SHELL_CELL = re.compile(r"%%(?:bash|sh|shell|script +(?:--\S+ +)*(?:bash|sh|zsh)|cmd)\b")
_FOREIGN_CELL = re.compile(
    r"%%(?:html|HTML|javascript|js|latex|markdown|svg|SVG|sql|bigquery|R|ruby|perl|cython|script|writefile|file|julia|pypy|python2)\b"
)
_WRITTEN_PYTHON = re.compile(r"%%(?:writefile|file)\s+(?:-a\s+)?\S+\.py\b")
_IPYTHON = re.compile(r"\s*In ?\[[\d ]*\]: ?")
_IPYTHON_MORE = re.compile(r"\s*\.{3,}: ?")
_MAGIC = re.compile(
    r"(?P<margin>[ \t]*+)(?P<target>[A-Za-z_]\w*+(?:, ?\w++)*+ *= *)?"
    r"(?P<command>!!?\s*\S.*|%{1,2}[A-Za-z].*|\?{1,2}[\w.]+\s*|[\w.]+(?:\([^()?]*\))?\?{1,2}\s*"
    r"|\$ +\S.*|(?:pip3?|conda|mamba|uv|poetry|npm|git|cd|sudo) +[a-z-]+\b(?! *[=(.,:]).*"
    r"|python3? +(?:-m +\w|[\w./-]+\.py).*)$"
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """code: Python, or shell when is_shell; each line stands at its place.

    commands: shell commands that stood among the Python, with their lines, from 1.
    """

    code: str
    is_shell: bool = False
    commands: tuple[tuple[int, str], ...] = ()


def prepare(code: str, *, is_session: bool = False) -> Prepared:
    """Dedent, take prompts and outputs out, and tell magics and shell lines from Python."""
    lines = code.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ").split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%"):
        at = next(at for at, line in enumerate(lines) if line.strip())
        if _SHELL_CELL.match(first):
            return Prepared("\n".join([""] * (at + 1) + lines[at + 1 :]), is_shell=True)
        if _FOREIGN_CELL.match(first) and not _WRITTEN_PYTHON.match(first):
            return Prepared("")
        lines[at] = ""
    if _has_prompts(lines, first, is_session=is_session):
        lines = _without_prompts(lines)
    return Prepared("\n".join(_dedented(lines)))


def without_magics(code: str) -> Prepared:
    """The same with notebook magics and shell lines replaced by statements that do nothing."""
    lines, commands = code.split("\n"), []
    for at, line in enumerate(lines):
        if not (found := _MAGIC.match(line)) or len(line) > 10_000:
            continue
        command = found["command"]
        # `% name` and `? ...` may go on with an expression of the line before.
        if command.startswith("%") and at and lines[at - 1].rstrip().endswith(("(", ",", '"', "'")):
            continue
        commands.append((at + 1, command.lstrip("!%$ ")))
        timed = re.match(r"%{1,2}(?:time|prun|memit)\s+(?=[\w(\[])(?!-)(.+)", command)
        lines[at] = found["margin"] + (timed[1] if timed else f"{found['target'] or ''}None")
    return Prepared("\n".join(lines), commands=tuple(commands))


def _has_prompts(lines: list[str], first: str, *, is_session: bool) -> bool:
    if first.startswith(">>>") or _IPYTHON.match(first):
        return True
    begins = (line.lstrip() for line in lines)
    if is_session:
        return any(line.startswith(">>>") or _IPYTHON.match(line) for line in begins)
    return first.startswith(("#", "Python ")) and any(line.startswith(">>> ") for line in lines)


def _without_prompts(lines: list[str]) -> list[str]:
    """Statements of a session; outputs become blank lines."""
    kept: list[str] = []
    in_statement = False
    for line in lines:
        bare = line.lstrip()
        if found := _IPYTHON.match(line):
            kept.append(line[found.end() :])
            in_statement = True
        elif in_statement and (found := _IPYTHON_MORE.match(line)):
            kept.append(line[found.end() :])
        elif bare.startswith(">>>"):
            kept.append(bare[3:].removeprefix(" "))
            in_statement = True
        elif in_statement and bare.startswith("..."):
            kept.append(bare[3:].removeprefix(" "))
        else:
            kept.append("")
            in_statement = False
    return kept


def _dedented(lines: list[str]) -> list[str]:
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    return [line.removeprefix(margin) for line in lines] if margin else lines
