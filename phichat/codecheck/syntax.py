"""Parse Python of any version with the running Python, whatever the text is."""

import ast
import re
import sys
import warnings
from dataclasses import dataclass

_ALLOW_INCOMPLETE_INPUT = 0x4000
"""PyCF_ALLOW_INCOMPLETE_INPUT of CPython's compile.h: errors at the end of the input say "incomplete input"."""

_MAX_CHARS = 4_000_000
_MAX_DROPPED_LINES = 40
_MAX_TOTAL_CHARS = 1_000_000
"""In all attempts to parse one incomplete block."""
_MAX_NESTED_FIELDS = 4
"""Replacement fields of one f-string that repeat its quotes."""

_TYPE_STATEMENT = re.compile(r"^(\s*)type (\w+)(?:\[[^\]\n]*\])?( *= *\S)", re.MULTILINE)
_TYPE_PARAMETERS = re.compile(r"^(\s*(?:async )?(?:def|class) \w+)\[[^\n(:]*\](?=[(:])", re.MULTILINE)
_BARE_EXCEPT = re.compile(r"^(\s*except\*? )([\w.]+(?:, *[\w.]+)+):", re.MULTILINE)
_TEMPLATE_PREFIX = re.compile(r"""(?<![\w"'])[tT](?=["'])""")
_NESTED_QUOTES = re.compile(r"""f(["'])((?:(?!\1)[^\n{])*)\{[^{}\n]*\1[^{}\n]*\}""")


@dataclass(frozen=True, slots=True)
class ParseResult:
    """Outcome of parsing a block for a target version.

    tree: None when the code cannot be parsed. message: why it is not valid, mostly "". line: of the error, or 0.
    """

    tree: ast.Module | None
    is_valid: bool
    message: str = ""
    line: int = 0


def parse_code(code: str, target: tuple[int, int]) -> ParseResult:
    """Parse a whole block."""
    if len(code) > _MAX_CHARS:
        return ParseResult(None, message="too long to check", is_valid=True)
    tree, error = try_parse(code)
    if tree is None and target > sys.version_info[:2]:
        tree = _downgrade_grammar(code, target)
    if tree is None:
        line = (error.lineno or 0) if isinstance(error, SyntaxError) else 0
        return ParseResult(None, is_valid=False, message=_format_error(error, code, target), line=line)
    if target < sys.version_info[:2]:
        needed, construct = _find_minimum_version(tree, code)
        if needed > target:
            return ParseResult(tree, is_valid=False, message=f"{construct} need Python {needed[0]}.{needed[1]}")
    return ParseResult(tree, is_valid=True)


def parse_incomplete(code: str, target: tuple[int, int]) -> ParseResult:
    """Parse a block that is still being written, without errors for what its end leaves open."""
    complete_result = parse_code(code, target)
    if complete_result.tree is not None or len(code) > _MAX_CHARS:
        return complete_result
    lines = code.split("\n")
    is_incomplete = _is_incomplete(code)
    attempts = max(2, min(_MAX_DROPPED_LINES, _MAX_TOTAL_CHARS // (len(code) + 1)))
    for count in range(len(lines), max(0, len(lines) - attempts), -1):
        tree, _ = try_parse("\n".join(_complete_lines(lines[:count])))
        if tree is not None:
            return ParseResult(tree, is_valid=True) if is_incomplete or count >= len(lines) - 2 else complete_result
    return ParseResult(None, is_valid=True) if is_incomplete else complete_result


def try_parse(code: str) -> tuple[ast.Module | None, BaseException | None]:
    """Parse code of any content without warnings; return the tree, or None and the error."""
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
            compile(code, "<answer>", "exec", flags=ast.PyCF_ONLY_AST | _ALLOW_INCOMPLETE_INPUT)
        except SyntaxError as error:
            return "incomplete input" in str(error)
        except (ValueError, RecursionError, MemoryError):
            return False
    return True


def _complete_lines(lines: list[str]) -> list[str]:
    """Return the lines with a body for a last line that needs one, and a handler for each unfinished `try`."""
    lines = [line for line in lines if line.strip()]
    if not lines:
        return []
    last = lines[-1]
    margin = len(last) - len(last.lstrip())
    added_lines = []
    if last.rstrip().endswith(":"):
        margin += 1
        added_lines.append(" " * margin + "pass")
    elif last.lstrip().startswith("@"):
        added_lines.append(" " * margin + "def _(): pass")
    for line in reversed(lines):
        indent = len(line) - len(line.lstrip())
        if indent < margin:
            margin = indent
            if re.match(r"\s*try\s*:", line):
                added_lines += [" " * indent + "except Exception:", " " * indent + " pass"]
    return [*lines, *added_lines]


def _downgrade_grammar(code: str, target: tuple[int, int]) -> ast.Module | None:
    """Parse code after rewriting grammar that is newer than the running Python to older grammar."""
    if target >= (3, 12):
        code = _TYPE_STATEMENT.sub(r"\1\2\3", code)
        code = _TYPE_PARAMETERS.sub(r"\1", code)
        for _ in range(_MAX_NESTED_FIELDS):
            code = _NESTED_QUOTES.sub(lambda found: "f" + found[1] + found[2], code)
    if target >= (3, 14):
        code = _BARE_EXCEPT.sub(r"\1(\2):", code)
        code = _TEMPLATE_PREFIX.sub("f", code)
    return try_parse(code)[0]


def _find_minimum_version(tree: ast.Module, code: str) -> tuple[tuple[int, int], str]:
    """Return the first Python 3 whose grammar has all that the code uses, and the construct that needs it."""
    return max((_required_version(node, code) for node in ast.walk(tree)), key=lambda required: required[0])


def _required_version(node: ast.AST, code: str) -> tuple[tuple[int, int], str]:
    match node:
        case ast.Match():
            return (3, 10), "match statements"
        case ast.TryStar():
            return (3, 11), "except* clauses"
        case ast.NamedExpr():
            return (3, 8), "assignment expressions"
        case _ if getattr(node, "type_params", None) or type(node).__name__ == "TypeAlias":
            return (3, 12), "type parameters and type statements"
        case _ if type(node).__name__ == "TemplateStr":
            return (3, 14), "template strings"
        case ast.JoinedStr() if sys.version_info >= (3, 12) and _has_nested_quotes(node, code):
            return (3, 12), "f-strings that repeat their quotes"
    return (3, 0), ""


def _has_nested_quotes(node: ast.JoinedStr, code: str) -> bool:
    if node.end_lineno != node.lineno or len(code) > 200_000:
        return False
    source = ast.get_source_segment(code, node) or ""
    return bool(_NESTED_QUOTES.match(source))


_PYTHON_2_STATEMENT = re.compile(
    r"^\s*(?:print +[\w\"'%(]|exec +[\"']|raise \w+, |except [\w.]+, *\w+\s*:)", re.MULTILINE
)


def _format_error(error: BaseException | None, code: str, target: tuple[int, int]) -> str:
    version = f"Python {target[0]}.{target[1]}"
    if isinstance(error, SyntaxError):
        if "Missing parentheses in call to" in str(error.msg) or (
            "multiple exception types" in str(error.msg) and _PYTHON_2_STATEMENT.search(code)
        ):
            return f"this is Python 2, not valid {version}"
        return f"not valid {version} ({error.msg.split(chr(10))[0][:100]})"
    if isinstance(error, RecursionError | MemoryError):
        return "nested too deeply to check"
    return f"not valid {version}"
