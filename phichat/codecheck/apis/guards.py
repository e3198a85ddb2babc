"""Code that expects a name to be missing: what a test, a handler or a patch in the code acquits."""

from __future__ import annotations

import ast
from enum import Enum

_FLAG_NAMES = {"PY2", "PY3", "TYPE_CHECKING", "version_info", "python_version", "IS_WINDOWS", "WINDOWS"}
_TESTED = {
    "sys": {"version_info", "hexversion", "platform", "version", "implementation"},
    "os": {"name"},
    "platform": {"system", "python_version", "python_version_tuple", "python_implementation", "machine", "release"},
    "six": {"PY2", "PY3"},
    "typing": {"TYPE_CHECKING"},
}
_EXITS = {"exit", "quit", "_exit", "skip", "fail"}


class Guard(Enum):
    """What is expected to be missing in guarded code."""

    ATTRIBUTE = "attribute"
    IMPORT = "import"
    KEYWORD = "keyword"
    ALL = "all"


_BY_ERROR = {
    "AttributeError": {Guard.ATTRIBUTE, Guard.IMPORT},
    "NameError": {Guard.ATTRIBUTE},
    "ImportError": {Guard.IMPORT, Guard.ATTRIBUTE},
    "ModuleNotFoundError": {Guard.IMPORT, Guard.ATTRIBUTE},
    "TypeError": {Guard.KEYWORD},
}


class Tests:
    """Knows a test of the Python version or of the platform, also through a variable that holds its outcome."""

    def __init__(self, tree: ast.Module) -> None:
        self.flags = set(_FLAG_NAMES)
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and self.of_version(node.value):
                self.flags.add(node.targets[0].id)

    def of_version(self, test: ast.expr) -> bool:
        for node in ast.walk(test):
            match node:
                case ast.Attribute(value=ast.Name(id=base), attr=name) if name in _TESTED.get(base, ()):
                    return True
                case ast.Name(id=name) if name in self.flags:
                    return True
        return False

    def leaves_by_version(self, statement: ast.stmt) -> bool:
        """Whether what follows the statement only runs on some versions."""
        match statement:
            case ast.Assert(test=test):
                return self.of_version(test)
            case ast.If(test=test, body=[*_, last]) if self.of_version(test):
                match last:
                    case ast.Raise() | ast.Return() | ast.Continue():
                        return True
                    case ast.Expr(value=ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name))):
                        return name in _EXITS
        return False


def try_guards(node: ast.Try | ast.TryStar) -> set[Guard]:
    found: set[Guard] = set()
    for handler in node.handlers:
        names = _names(handler.type) if handler.type is not None else {"BaseException"}
        for name in names:
            found |= _BY_ERROR.get(name, set())
        if names & {"Exception", "BaseException"}:
            found.add(Guard.IMPORT)
            # A handler of everything is a net for the whole code, unless all it holds is one attempt.
            if len(node.body) == 1 and handler.name is None and not isinstance(node.body[0], ast.With | ast.For):
                found |= {Guard.ATTRIBUTE, Guard.KEYWORD}
    return found


def with_guards(node: ast.With | ast.AsyncWith) -> set[Guard]:
    """suppress(AttributeError), raises(ImportError) and the like."""
    found: set[Guard] = set()
    for item in node.items:
        if isinstance(item.context_expr, ast.Call):
            for argument in item.context_expr.args:
                for name in _names(argument):
                    found |= _BY_ERROR.get(name, set())
    return found


def asked_names(tree: ast.Module) -> set[str]:
    """The attributes whose existence the code asks for by name: hasattr, getattr, `"name" in dir(module)`."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="hasattr" | "getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found.add(name)
            case ast.Compare(left=ast.Constant(value=str(name)), ops=[ast.In() | ast.NotIn()]):
                found.add(name)
    return found


def narrowed_names(tree: ast.Module) -> set[str]:
    """The variables whose type the code asks for: what they were said to be is not all they can be."""
    asking = {"isinstance", "hasattr", "getattr", "setattr", "issubclass", "callable", "type", "cast"}
    return {
        argument.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in asking
        for argument in node.args
        if isinstance(argument, ast.Name)
    }


def _names(expression: ast.expr) -> set[str]:
    return {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(expression)
        if isinstance(node, ast.Name | ast.Attribute)
    }
