"""What a block imports, wherever in it, and whether it is prepared to do without."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

_GUARDING = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))
_TESTED = frozenset(("version_info", "hexversion", "PY2", "PY3", "PYTHON2", "PYTHON3", "python_version", "platform"))


_IMPORTER = re.compile(r"import_module|__import__|importorskip")


@dataclass(frozen=True, slots=True)
class Imported:
    """module: dotted. line: within the block, from 1. names: what is taken from it.

    guarded: the code tests the version, or catches the failure.
    """

    module: str
    line: int
    names: tuple[str, ...] = ()
    guarded: bool = False


def imports_of(tree: ast.Module, code: str) -> list[Imported]:
    """All absolute imports, by line; with import_module and __import__ where the name is written out."""
    reads_calls = _IMPORTER.search(code) is not None
    found: list[Imported] = []
    waiting: list[tuple[ast.AST, bool]] = [(tree, False)]
    while waiting:
        node, guarded = waiting.pop()
        match node:
            case ast.Import(names=names):
                found += [Imported(alias.name, node.lineno, (), guarded) for alias in names]
            case ast.ImportFrom(module=str(module), level=0, names=names):
                found.append(Imported(module, node.lineno, tuple(alias.name for alias in names), guarded))
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if _is_importer(function):
                if re.fullmatch(r"\w+(?:\.\w+)*", module):
                    found.append(Imported(module, node.lineno, (), guarded))
            case _:
                pass
        inside = guarded or _guards(node)
        for child in ast.iter_child_nodes(node):
            if reads_calls or not isinstance(child, ast.expr):
                waiting.append((child, inside))
    return sorted(found, key=lambda one: one.line)


def _is_importer(function: ast.expr) -> bool:
    match function:
        case ast.Name(id=name):
            return name in ("__import__", "import_module", "importorskip")
        case ast.Attribute(attr=name):
            return name in ("import_module", "importorskip", "__import__")
        case _:
            return False


def _guards(node: ast.AST) -> bool:
    match node:
        case ast.Try(handlers=handlers):
            return any(handler.type is None or _names_in(handler.type) & _GUARDING for handler in handlers)
        case ast.If(test=test):
            return bool(_names_in(test) & _TESTED)
        case _:
            return False


def _names_in(expression: ast.expr) -> set[str]:
    names = set()
    for node in ast.walk(expression):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                names.add(name)
            case _:
                pass
    return names


_NO_CODE = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""|\Z)|'
    r"'''(?:[^\\]|\\.)*?(?:'''|\Z)|"
    r'"(?:[^"\\\n]|\\.)*"?|'
    r"'(?:[^'\\\n]|\\.)*'?|#[^\n]*",
    re.DOTALL,
)
_IMPORT = re.compile(r"[ \t]*import[ \t]+(\w[^\n;]*)")
_FROM = re.compile(r"[ \t]*from[ \t]+(\w[\w.]*)[ \t]+import[ \t]+([\w*(][^\n;]*)")
_ONE = re.compile(r"\s*(\w+(?:\.\w+)*)(?:\s+as\s+\w+)?\s*$")


def scan_imports(code: str) -> list[Imported]:
    """The imports of code that cannot be parsed, by looking at its lines without strings and comments."""
    return list(_scan(_NO_CODE.sub(lambda found: "''" + "\n" * found[0].count("\n"), code)))


def _scan(code: str) -> Iterator[Imported]:
    for number, line in enumerate(code.split("\n"), 1):
        if len(line) > 10_000:
            continue
        for statement in line.split(";"):
            if found := _FROM.match(statement):
                names = re.findall(r"\w+", re.sub(r"\s+as\s+\w+", "", found[2]))
                yield Imported(found[1], number, tuple(names))
            elif found := _IMPORT.match(statement):
                parts = [_ONE.match(part) for part in found[1].split(",")]
                if all(parts):
                    for part in parts:
                        assert part is not None
                        yield Imported(part[1], number)
