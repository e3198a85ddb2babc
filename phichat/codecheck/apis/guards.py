"""Guards: tests and exception handlers by which code expects a name to be missing."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from enum import Enum

_VERSION_FLAGS = {"PY2", "PY3", "TYPE_CHECKING", "version_info", "python_version", "IS_WINDOWS", "WINDOWS"}
_PLATFORM_ATTRIBUTES = {
    "sys": {"version_info", "hexversion", "platform", "version", "implementation"},
    "os": {"name"},
    "platform": {"system", "python_version", "python_version_tuple", "python_implementation", "machine", "release"},
    "six": {"PY2", "PY3"},
    "typing": {"TYPE_CHECKING"},
}
_EXIT_FUNCTIONS = {"exit", "quit", "_exit", "skip", "fail"}


class Guard(Enum):
    """Kind of name that guarded code expects to be missing."""

    ATTRIBUTE = "attribute"
    IMPORT = "import"
    KEYWORD = "keyword"
    ALL = "all"


_GUARDS_BY_EXCEPTION = {
    "AttributeError": {Guard.ATTRIBUTE, Guard.IMPORT},
    "NameError": {Guard.ATTRIBUTE},
    "ImportError": {Guard.IMPORT, Guard.ATTRIBUTE},
    "ModuleNotFoundError": {Guard.IMPORT, Guard.ATTRIBUTE},
    "TypeError": {Guard.KEYWORD},
}


class VersionTests:
    """Recogniser of tests of the Python version or the platform, also of variables that hold their outcome."""

    def __init__(self, tree: ast.Module) -> None:
        self.version_flags = set(_VERSION_FLAGS)
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(id=name), *_], value=value) if self.is_version_test(value):
                    self.version_flags.add(name)

    def is_version_test(self, test: ast.expr) -> bool:
        for node in ast.walk(test):
            match node:
                case ast.Attribute(value=ast.Name(id=base), attr=name) if name in _PLATFORM_ATTRIBUTES.get(base, ()):
                    return True
                case ast.Name(id=name) if name in self.version_flags:
                    return True
        return False

    def exits_by_version(self, statement: ast.stmt) -> bool:
        """Return True when the code after the statement runs on some versions only."""
        match statement:
            case ast.Assert(test=test):
                return self.is_version_test(test)
            case ast.If(test=test, body=[*_, last]) if self.is_version_test(test):
                match last:
                    case ast.Raise() | ast.Return() | ast.Continue():
                        return True
                    case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
                        return name in _EXIT_FUNCTIONS
        return False


def guards_of_try(node: ast.Try | ast.TryStar) -> set[Guard]:
    guards: set[Guard] = set()
    for handler in node.handlers:
        names = collect_identifiers(handler.type) if handler.type is not None else {"BaseException"}
        guards |= _guards_of_exceptions(names)
        if names & {"Exception", "BaseException"}:
            guards.add(Guard.IMPORT)
            # A handler of everything protects the whole code, unless its body is one attempt.
            if len(node.body) == 1 and handler.name is None and not isinstance(node.body[0], ast.With | ast.For):
                guards |= {Guard.ATTRIBUTE, Guard.KEYWORD}
    return guards


def guards_of_with(node: ast.With | ast.AsyncWith) -> set[Guard]:
    """Return the guards of suppress(AttributeError), raises(ImportError) and the like."""
    calls = [item.context_expr for item in node.items if isinstance(item.context_expr, ast.Call)]
    arguments = [argument for call in calls for argument in call.args]
    return _guards_of_exceptions(name for argument in arguments for name in collect_identifiers(argument))


def _guards_of_exceptions(names: Iterable[str]) -> set[Guard]:
    return {guard for name in names for guard in _GUARDS_BY_EXCEPTION.get(name, ())}


def find_probed_names(tree: ast.Module) -> set[str]:
    """Return the attributes whose existence the code tests: hasattr, getattr, `"name" in dir(module)`."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="hasattr" | "getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                names.add(name)
            case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()]):
                names.add(name)
    return names


def find_type_tested_names(tree: ast.Module) -> set[str]:
    """Return the variables whose type the code tests, whose annotation therefore does not name every type."""
    type_tests = {"isinstance", "hasattr", "getattr", "setattr", "issubclass", "callable", "type", "cast"}
    return {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in type_tests
        for argument in node.args
        if isinstance(argument, ast.Name)
    }


def collect_identifiers(expression: ast.expr) -> set[str]:
    """Return all names and attributes in an expression."""
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Name | ast.Attribute)
    }
