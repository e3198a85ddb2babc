"""Code that expects a name to be missing: what a test, a handler or a patch in the code acquits."""

from __future__ import annotations

import ast
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
    """What is expected to be missing in guarded code."""

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
    """Knows a test of the Python version or of the platform, also through a variable that holds its outcome."""

    def __init__(self, tree: ast.Module) -> None:
        self.version_flags = set(_VERSION_FLAGS)
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and self.is_version_test(node.value)
            ):
                self.version_flags.add(node.targets[0].id)

    def is_version_test(self, test: ast.expr) -> bool:
        for node in ast.walk(test):
            match node:
                case ast.Attribute(value=ast.Name(id=base), attr=name) if name in _PLATFORM_ATTRIBUTES.get(base, ()):
                    return True
                case ast.Name(id=name) if name in self.version_flags:
                    return True
        return False

    def exits_by_version(self, statement: ast.stmt) -> bool:
        """Whether what follows the statement only runs on some versions."""
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
        names = _identifiers(handler.type) if handler.type is not None else {"BaseException"}
        for name in names:
            guards |= _GUARDS_BY_EXCEPTION.get(name, set())
        if names & {"Exception", "BaseException"}:
            guards.add(Guard.IMPORT)
            # A handler of everything is a net for the whole code, unless all it holds is one attempt.
            if len(node.body) == 1 and handler.name is None and not isinstance(node.body[0], ast.With | ast.For):
                guards |= {Guard.ATTRIBUTE, Guard.KEYWORD}
    return guards


def guards_of_with(node: ast.With | ast.AsyncWith) -> set[Guard]:
    """suppress(AttributeError), raises(ImportError) and the like."""
    guards: set[Guard] = set()
    for item in node.items:
        if isinstance(item.context_expr, ast.Call):
            for argument in item.context_expr.args:
                for name in _identifiers(argument):
                    guards |= _GUARDS_BY_EXCEPTION.get(name, set())
    return guards


def find_probed_names(tree: ast.Module) -> set[str]:
    """The attributes whose existence the code asks for by name: hasattr, getattr, `"name" in dir(module)`."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="hasattr" | "getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                names.add(name)
            case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()]):
                names.add(name)
    return names


def find_type_tested_names(tree: ast.Module) -> set[str]:
    """The variables whose type the code asks for: what they were said to be is not all they can be."""
    type_tests = {"isinstance", "hasattr", "getattr", "setattr", "issubclass", "callable", "type", "cast"}
    return {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in type_tests
        for argument in node.args
        if isinstance(argument, ast.Name)
    }


def _identifiers(expression: ast.expr) -> set[str]:
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Name | ast.Attribute)
    }
