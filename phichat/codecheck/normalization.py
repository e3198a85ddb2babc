"""Normalisation of a block to Python that can be parsed, with every line in its place."""

import re
from dataclasses import dataclass

_SHELL_CELL_MAGIC = re.compile(r"%%(?:bash|sh|shell|script +(?:--\S+ +)*(?:bash|sh|zsh)|cmd)\b")
_OTHER_CELL_MAGIC = re.compile(
    r"%%(?:html|HTML|javascript|js|latex|markdown|svg|SVG|sql|bigquery|R|ruby|perl|cython|script|writefile|file|julia|pypy|python2)\b"
)
_WRITEFILE_PYTHON = re.compile(r"%%(?:writefile|file)\s+(?:-a\s+)?\S+\.py\b")
_PROMPT = re.compile(r"\s*(?:In ?\[[\d ]*\]: ?|>>> ?)")
_CONTINUATION = re.compile(r"\s*(?:\.{3,}: ?|\.{3} ?)")
_MAGIC = re.compile(
    r"(?P<margin>[ \t]*+)(?P<target>[A-Za-z_]\w*+(?:, ?\w++)*+ *= *)?"
    r"(?P<command>!!?\s*\S.*|%{1,2}[A-Za-z].*|\?{1,2}[\w.]+\s*|[\w.]+(?:\([^()?]*\))?\?{1,2}\s*"
    r"|\$ +\S.*|(?:pip3?|conda|mamba|uv|poetry|npm|git|cd|sudo) +[a-z-]+\b(?! *[=(.,:]).*"
    r"|python3? +(?:-m +\w|[\w./-]+\.py).*)$"
)


@dataclass(frozen=True, slots=True)
class NormalizedCode:
    """Python code, or shell if is_shell. commands: shell commands among the Python, with their lines from 1."""

    code: str
    is_shell: bool = False
    commands: tuple[tuple[int, str], ...] = ()


def normalize_block(code: str, *, is_session: bool = False) -> NormalizedCode:
    """Dedent a block, remove prompts and output, and recognise cells of other languages."""
    lines = code.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").replace("\f", " ").split("\n")
    first = next((line.strip() for line in lines if line.strip()), "")
    if first.startswith("%%"):
        index = next(at for at, line in enumerate(lines) if line.strip())
        if _SHELL_CELL_MAGIC.match(first):
            return NormalizedCode("\n".join([""] * (index + 1) + lines[index + 1 :]), is_shell=True)
        if _OTHER_CELL_MAGIC.match(first) and not _WRITEFILE_PYTHON.match(first):
            return NormalizedCode("")
        lines[index] = ""
    if _has_prompts(lines, first, is_session=is_session):
        lines = _strip_prompts(lines)
    return NormalizedCode("\n".join(_dedent_lines(lines)))


def replace_magics(code: str) -> NormalizedCode:
    """Replace notebook magics and shell lines by statements that do nothing."""
    lines, commands = code.split("\n"), []
    for index, line in enumerate(lines):
        if not (match := _MAGIC.match(line)) or len(line) > 10_000:
            continue
        command = match["command"]
        # `% name` may continue an expression of the line before.
        if command.startswith("%") and index and lines[index - 1].rstrip().endswith(("(", ",", '"', "'")):
            continue
        commands.append((index + 1, command.lstrip("!%$ ")))
        timed = re.match(r"%{1,2}(?:time|prun|memit)\s+(?=[\w(\[])(?!-)(.+)", command)
        lines[index] = match["margin"] + (timed[1] if timed else f"{match['target'] or ''}None")
    return NormalizedCode("\n".join(lines), commands=tuple(commands))


def _has_prompts(lines: list[str], first: str, *, is_session: bool) -> bool:
    if _PROMPT.match(first):
        return True
    if is_session:
        return any(_PROMPT.match(line) for line in lines)
    return first.startswith(("#", "Python ")) and any(line.startswith(">>> ") for line in lines)


def _strip_prompts(lines: list[str]) -> list[str]:
    """Return the statements of a session; output becomes blank lines."""
    statements: list[str] = []
    in_statement = False
    for line in lines:
        match = _PROMPT.match(line) or (_CONTINUATION.match(line) if in_statement else None)
        in_statement = match is not None
        statements.append(line[match.end() :] if match else "")
    return statements


def _dedent_lines(lines: list[str]) -> list[str]:
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    return [line.removeprefix(margin) for line in lines] if margin else lines
