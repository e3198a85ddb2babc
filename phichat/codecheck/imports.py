"""Imports of a code block, and whether the code is prepared to do without them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from phichat.codecheck.apis.guards import collect_identifiers

_GUARDING_EXCEPTIONS = frozenset(("ImportError", "ModuleNotFoundError", "Exception", "BaseException"))
_VERSION_TEST_NAMES = frozenset(
    ("version_info", "hexversion", "PY2", "PY3", "PYTHON2", "PYTHON3", "python_version", "platform")
)
_DYNAMIC_IMPORT = re.compile(r"import_module|__import__|importorskip")


@dataclass(frozen=True, slots=True)
class ImportedModule:
    """One import of a module. module: dotted. line: within the block, from 1. names: imported from it.

    is_guarded: the code tests the version or catches the failure.
    """

    module: str
    line: int
    names: tuple[str, ...] = ()
    is_guarded: bool = False


def find_imports(tree: ast.Module, code: str) -> list[ImportedModule]:
    """Return all absolute imports by line, with those of import_module and __import__ of a literal name."""
    has_dynamic_imports = _DYNAMIC_IMPORT.search(code) is not None
    imports: list[ImportedModule] = []
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, guarded = stack.pop()
        match node:
            case ast.Import(names=names):
                imports += [ImportedModule(alias.name, node.lineno, (), guarded) for alias in names]
            case ast.ImportFrom(module=str(module), level=0, names=names):
                imports.append(ImportedModule(module, node.lineno, tuple(alias.name for alias in names), guarded))
            case ast.Call(func=function, args=[ast.Constant(value=str(module)), *_]) if _is_dynamic_import(function):
                if re.fullmatch(r"\w+(?:\.\w+)*", module):
                    imports.append(ImportedModule(module, node.lineno, (), guarded))
        children_guarded = guarded or _is_guard(node)
        for child in ast.iter_child_nodes(node):
            if has_dynamic_imports or not isinstance(child, ast.expr):
                stack.append((child, children_guarded))
    return sorted(imports, key=lambda one: one.line)


def _is_dynamic_import(function: ast.expr) -> bool:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _DYNAMIC_IMPORT.fullmatch(name) is not None
    return False


def _is_guard(node: ast.AST) -> bool:
    match node:
        case ast.Try(handlers=handlers):
            return any(not one.type or collect_identifiers(one.type) & _GUARDING_EXCEPTIONS for one in handlers)
        case ast.If(test=test):
            return bool(collect_identifiers(test) & _VERSION_TEST_NAMES)
    return False


_STRING_OR_COMMENT = re.compile(
    r'"""(?:[^\\]|\\.)*?(?:"""|\Z)|'
    r"'''(?:[^\\]|\\.)*?(?:'''|\Z)|"
    r'"(?:[^"\\\n]|\\.)*"?|'
    r"'(?:[^'\\\n]|\\.)*'?|#[^\n]*",
    re.DOTALL,
)
_IMPORT = re.compile(r"[ \t]*import[ \t]+(\w[^\n;]*)")
_FROM = re.compile(r"[ \t]*from[ \t]+(\w[\w.]*)[ \t]+import[ \t]+([\w*(][^\n;]*)")
_IMPORT_ITEM = re.compile(r"\s*(\w+(?:\.\w+)*)(?:\s+as\s+\w+)?\s*$")


def scan_imports(code: str) -> list[ImportedModule]:
    """Return the imports of code that cannot be parsed, from its lines without strings and comments."""
    return list(_iter_line_imports(_STRING_OR_COMMENT.sub(lambda found: "''" + "\n" * found[0].count("\n"), code)))


def _iter_line_imports(code: str) -> Iterator[ImportedModule]:
    for line_number, line in enumerate(code.split("\n"), 1):
        if len(line) > 10_000:
            continue
        for statement in line.split(";"):
            if match := _FROM.match(statement):
                names = re.findall(r"\w+", re.sub(r"\s+as\s+\w+", "", match[2]))
                yield ImportedModule(match[1], line_number, tuple(names))
            elif match := _IMPORT.match(statement):
                items = [_IMPORT_ITEM.match(item) for item in match[1].split(",")]
                if None not in items:
                    yield from (ImportedModule(item[1], line_number) for item in items if item)
