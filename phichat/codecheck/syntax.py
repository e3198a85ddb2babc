"""Parse Python of any version with the Python that runs, whatever it is given."""

from __future__ import annotations

import ast
import re
import sys
import warnings
from dataclasses import dataclass

_INCOMPLETE = 0x4000
"""PyCF_ALLOW_INCOMPLETE_INPUT of CPython's compile.h: an error that only the end of the input made says so."""

_LARGEST = 4_000_000
_MOST_LINES_BACK = 40
_MOST_READ = 1_000_000
"""Characters, in all attempts to parse what has no end yet."""
_MOST_NESTED = 4
"""Replacement fields of one f-string that repeat its quotes."""

_TYPE_STATEMENT = re.compile(r"^(\s*)type (\w+)(?:\[[^\]\n]*\])?( *= *\S)", re.MULTILINE)
_TYPE_PARAMETERS = re.compile(r"^(\s*(?:async )?(?:def|class) \w+)\[[^\n(:]*\](?=[(:])", re.MULTILINE)
_BARE_EXCEPT = re.compile(r"^(\s*except\*? )([\w.]+(?:, *[\w.]+)+):", re.MULTILINE)
_TEMPLATE = re.compile(r"""(?<![\w"'])[tT](?=["'])""")
_NESTED = re.compile(r"""f(["'])((?:(?!\1)[^\n{])*)\{[^{}\n]*\1[^{}\n]*\}""")


@dataclass(frozen=True, slots=True)
class Parsed:
    """tree: None when the code cannot be parsed. ok: whether it is valid for the target.

    remark: why it is not, or which Python it needs; "" mostly. line: of the error, 0 when there is none.
    """

    tree: ast.Module | None
    ok: bool
    remark: str = ""
    line: int = 0


def parse(code: str, target: tuple[int, int]) -> Parsed:
    """Parse a whole block."""
    if len(code) > _LARGEST:
        return Parsed(None, remark="too long to be checked", ok=True)
    tree, error = _parse(code)
    if tree is None and target > sys.version_info[:2]:
        tree = _newer(code, target)
    if tree is None:
        return Parsed(None, ok=False, remark=_told(error, code, target), line=_line(error))
    if target >= sys.version_info[:2]:
        return Parsed(tree, ok=True)
    needed, why = _needs(tree, code)
    if needed > target:
        return Parsed(tree, ok=False, remark=f"{why} need Python {needed[0]}.{needed[1]}")
    return Parsed(tree, ok=True)


def parse_cut_off(code: str, target: tuple[int, int]) -> Parsed:
    """Parse a block that ends in the middle: what its end leaves open is no error."""
    whole = parse(code, target)
    if whole.tree is not None or len(code) > _LARGEST:
        return whole
    lines = code.split("\n")
    at_end = _is_incomplete(code)
    attempts = max(2, min(_MOST_LINES_BACK, _MOST_READ // (len(code) + 1)))
    for count in range(len(lines), max(0, len(lines) - attempts), -1):
        tree, _ = _parse("\n".join(_completed(lines[:count])))
        if tree is not None:
            return Parsed(tree, ok=True) if at_end or count >= len(lines) - 2 else whole
    return Parsed(None, ok=True) if at_end else whole


def _parse(code: str) -> tuple[ast.Module | None, BaseException | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(code), None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            return None, error


def _is_incomplete(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(code, "<answer>", "exec", flags=ast.PyCF_ONLY_AST | _INCOMPLETE)
        except SyntaxError as error:
            return "incomplete input" in str(error)
        except (ValueError, RecursionError, MemoryError):
            return False
    return True


def _completed(lines: list[str]) -> list[str]:
    """The lines with a body for a last line that wants one, and handlers for each `try` that has none yet."""
    lines = [line for line in lines if line.strip()]
    if not lines:
        return []
    last = lines[-1]
    margin = len(last) - len(last.lstrip())
    added = []
    if last.rstrip().endswith(":"):
        added.append(" " * (margin + 1) + "pass")
        margin += 1
    elif last.lstrip().startswith("@"):
        added.append(" " * margin + "def _(): pass")
    for line in reversed(lines):
        indent = len(line) - len(line.lstrip())
        word = line.strip()
        if indent < margin and re.match(r"(?:except|finally)\b", word):
            margin = indent
        elif indent < margin:
            margin = indent
            if re.match(r"try\s*:", word):
                added += [" " * indent + "except Exception:", " " * indent + " pass"]
    return [*lines, *added]


def _newer(code: str, target: tuple[int, int]) -> ast.Module | None:
    """Grammar that is newer than the running Python, said in the words of older ones."""
    if target >= (3, 12):
        code = _TYPE_STATEMENT.sub(r"\1\2\3", code)
        code = _TYPE_PARAMETERS.sub(r"\1", code)
        for _ in range(_MOST_NESTED):
            code = _NESTED.sub(lambda found: "f" + found[1] + found[2], code)
    if target >= (3, 14):
        code = _BARE_EXCEPT.sub(r"\1(\2):", code)
        code = _TEMPLATE.sub("f", code)
    return _parse(code)[0]


def _needs(tree: ast.Module, code: str) -> tuple[tuple[int, int], str]:
    """The first Python 3 whose grammar has all that is there, and what it is that asks for it."""
    needed, why = (3, 0), ""
    for node in ast.walk(tree):
        version, name = (3, 0), ""
        match node:
            case ast.Match():
                version, name = (3, 10), "match statements"
            case ast.TryStar():
                version, name = (3, 11), "except* clauses"
            case ast.NamedExpr():
                version, name = (3, 8), "assignment expressions"
            case _ if getattr(node, "type_params", None) or type(node).__name__ == "TypeAlias":
                version, name = (3, 12), "type parameters and type statements"
            case _ if type(node).__name__ == "TemplateStr":
                version, name = (3, 14), "template strings"
            case ast.JoinedStr() if sys.version_info >= (3, 12) and _is_nested(node, code):
                version, name = (3, 12), "f-strings that repeat their quotes"
            case _:
                continue
        if version > needed:
            needed, why = version, name
    return needed, why


def _is_nested(node: ast.JoinedStr, code: str) -> bool:
    if node.end_lineno != node.lineno or len(code) > 200_000:
        return False
    source = ast.get_source_segment(code, node) or ""
    return bool(_NESTED.match(source))


_PYTHON_2 = re.compile(r"^\s*(?:print +[\w\"'%(]|exec +[\"']|raise \w+, |except [\w.]+, *\w+\s*:)", re.MULTILINE)


def _told(error: BaseException | None, code: str, target: tuple[int, int]) -> str:
    version = f"Python {target[0]}.{target[1]}"
    if isinstance(error, SyntaxError):
        if "Missing parentheses in call to" in str(error.msg) or (
            "multiple exception types" in str(error.msg) and _PYTHON_2.search(code)
        ):
            return f"this is Python 2 and no valid {version}"
        return f"no valid {version} ({error.msg.split(chr(10))[0][:100]})"
    if isinstance(error, RecursionError | MemoryError):
        return "nested too deeply to be checked"
    return f"no valid {version}"


def _line(error: BaseException | None) -> int:
    return (error.lineno or 0) if isinstance(error, SyntaxError) else 0
