"""Finds what a piece of code uses of the standard library that the target version does not have."""

from __future__ import annotations

import ast
import sys

from phichat.code_report import BadApi
from phichat.codecheck.apis.guards import Guard, Tests, asked_names, narrowed_names
from phichat.codecheck.apis.removed import removed_in
from phichat.codecheck.apis.scopes import Annotated, Binding, Entered, Imported, Scope, Use, Value, read_scopes
from phichat.codecheck.apis.snapshot import (
    Class,
    Function,
    Instance,
    Library,
    Missing,
    Module,
    Thing,
    record,
    versions_of,
)

_DEEPEST = 60
_FILE = "_io:TextIOWrapper"
_LITERALS: dict[type, str] = {
    ast.JoinedStr: "str", ast.List: "list", ast.ListComp: "list", ast.Dict: "dict", ast.DictComp: "dict",
    ast.Set: "set", ast.SetComp: "set", ast.Tuple: "tuple",
}  # fmt: skip
_CONSTANTS: dict[type, str] = {str: "str", bytes: "bytes", int: "int", float: "float"}


def find_bad_apis(tree: ast.Module, target: tuple[int, int]) -> list[BadApi]:
    """What does not exist in the target version on any platform, each once, in order of line. Nothing is imported."""
    finder = _Finder(tree, target)
    found: dict[str, BadApi] = {}
    for use in finder.scopes.uses:
        for bad in finder.judge(use):
            if bad.name not in found or bad.line < found[bad.name].line:
                found[bad.name] = bad
    return sorted(found.values(), key=lambda bad: bad.line)


class _Finder:
    def __init__(self, tree: ast.Module, target: tuple[int, int]) -> None:
        self.target = target
        self.library = Library(target)
        self.scopes = read_scopes(tree, Tests(tree))
        self.asked = asked_names(tree)
        self.narrowed = narrowed_names(tree)
        self.known: dict[int, Thing | Missing | None] = {}
        self.bound: dict[tuple[int, bool], Thing | Missing | None] = {}
        self.patched: set[str] = set()
        self.patched = self._patched()

    def judge(self, use: Use) -> list[BadApi]:
        if Guard.ALL in use.guards:
            return []
        match use.node:
            case ast.Import(names=aliases) if Guard.IMPORT not in use.guards:
                return [bad for alias in aliases if (bad := self._module(alias.name, alias.lineno))]
            case ast.ImportFrom(module=str(module), names=aliases, level=0) if Guard.IMPORT not in use.guards:
                if not self.library.has_module(module):
                    bad = self._module(module, use.node.lineno)
                    return [bad] if bad else []
                return [
                    bad
                    for alias in aliases
                    if alias.name != "*" and (bad := self._from(module, alias.name, alias.lineno))
                ]
            case ast.Attribute(attr=name, ctx=ast.Load()) as node if Guard.ATTRIBUTE not in use.guards:
                missing = self.evaluate(node)
                base = self.evaluate(node.value)
                if isinstance(missing, Missing) and base is not None and not isinstance(base, Missing):
                    return self._report(_canonical(base, name), missing, node.end_lineno or node.lineno, name)
            case ast.Call() as node if Guard.KEYWORD not in use.guards:
                return self._keywords(node)
        return []

    def _module(self, name: str, line: int) -> BadApi | None:
        """A submodule that is not there, of a module that is."""
        parts = name.split(".")
        if not self.library.has_module(parts[0]):
            return None
        for end in range(2, len(parts) + 1):
            inner = ".".join(parts[:end])
            if any(part.startswith("_") for part in parts[:end]):
                return None
            if not self.library.has_module(inner):
                parent = record(".".join(parts[: end - 1]))
                if parent is not None and parts[end - 1] in parent.get("x", "").split():
                    return None
                found = record(inner)
                return next(iter(self._report(inner, Missing(found["v"] if found else 0), line, parts[end - 1])), None)
        return None

    def _from(self, module: str, name: str, line: int) -> BadApi | None:
        step = self.library.step(Module(module), name)
        if isinstance(step, Missing):
            return next(iter(self._report(_canonical(Module(module), name), step, line, name)), None)
        return None

    def _keywords(self, node: ast.Call) -> list[BadApi]:
        callee = self.evaluate(node.func) if node.keywords else None
        match callee:
            case Function():
                functions: list[Function] | None = [callee]
            case Class():
                functions = self.library.constructor(callee)
            case _:
                return []
        found = []
        for keyword in node.keywords:
            if keyword.arg is None or not functions:
                continue
            lacks = [self.library.lacks_keyword(function, keyword.arg) for function in functions]
            mask = 0
            for one in lacks:
                mask |= one.mask if one else 0
            if all(lacks):
                name = f"{functions[0].name}({keyword.arg}=)"
                position = any(f"/{keyword.arg}" in function.keywords.split() for function in functions)
                found += self._report(name, Missing(mask), keyword.lineno, "", by_position=position)
        return found

    def _report(self, name: str, missing: Missing, line: int, last: str, *, by_position: bool = False) -> list[BadApi]:
        gone = removed_in(name)
        if last in self.asked or name in self.patched or name.rpartition(".")[0] in self.patched:
            return []
        if self._running_has(name) or (gone is not None and self.target < gone):
            return []
        return [BadApi(name, line, _message(missing.mask, self.target, gone, by_position=by_position))]

    def _running_has(self, name: str) -> bool:
        """Whether the interpreter that runs this has it, where the module is loaded anyway."""
        module, _, last = name.rpartition(".")
        return sys.version_info[:2] == self.target and last in vars(sys.modules.get(module, object))

    def evaluate(self, node: ast.expr, depth: int = 0) -> Thing | Missing | None:
        """What an expression certainly is; None when that is not known."""
        key = id(node)
        if key not in self.known and depth < _DEEPEST:
            self.known[key] = None
            self.known[key] = self._evaluate(node, depth + 1)
        return self.known.get(key)

    def _evaluate(self, node: ast.expr, depth: int) -> Thing | Missing | None:
        match node:
            case ast.Name(id=name):
                return self._name(name, self.scopes.where.get(id(node)), depth)
            case ast.Attribute(value=value, attr=name):
                base = self.evaluate(value, depth)
                return None if base is None or isinstance(base, Missing) else self.library.step(base, name)
            case ast.Call(func=func):
                callee = self.evaluate(func, depth)
                if isinstance(callee, Function) and callee.name == "open":
                    return self.library.instance([_FILE], None) if _is_text(node) else None
                return self._result(callee)
            case ast.Constant(value=value) if type(value) in _CONSTANTS:
                return self.library.instance([f"builtins:{_CONSTANTS[type(value)]}"], None)
            case ast.BinOp(left=left, op=ast.Div()):
                base = self.evaluate(left, depth)
                if isinstance(base, Instance) and base.classes[0].module.startswith("pathlib"):
                    return base
        if type(node) in _LITERALS:
            return self.library.instance([f"builtins:{_LITERALS[type(node)]}"], None)
        return None

    def _result(self, callee: Thing | Missing | None) -> Instance | None:
        match callee:
            case Class(module="builtins", path="type" | "super" | "property" | "object"):
                return None
            case Class():
                return Instance((callee,))
            case Function(types=types, owner=owner) if types:
                return self.library.instance(types, owner)
        return None

    def _name(self, name: str, scope: Scope | None, depth: int) -> Thing | Missing | None:
        here, first = scope, True
        while here is not None:
            owner = here.elsewhere.get(name, here)
            if any(self._may_bring(name, source) for source in owner.starred):
                return None
            if name in owner.bindings and (first or not here.is_class):
                return self._bound(name, owner.bindings[name], depth, same=owner is scope)
            here, first = here.parent, False
        found = self.library.step(Module("builtins"), name)
        return None if isinstance(found, Missing) else found

    def _may_bring(self, name: str, source: str) -> bool:
        if not self.library.has_module(source):
            return True
        return not isinstance(self.library.step(Module(source), name), Missing)

    def _bound(self, name: str, bindings: list[Binding], depth: int, *, same: bool) -> Thing | Missing | None:
        if len(bindings) > 1 and not isinstance(bindings[0], Imported):
            return None
        key = (id(bindings), same)
        if key not in self.bound:
            self.bound[key] = None
            things = [self._binding(name, one, depth, same=same) for one in dict.fromkeys(bindings)]
            self.bound[key] = None if any(one != things[0] for one in things) else things[0]
        return self.bound[key]

    def _binding(self, name: str, binding: Binding, depth: int, *, same: bool) -> Thing | Missing | None:
        found: Thing | Missing | None = None
        match binding:
            case Imported(module=module, name=""):
                return Module(module) if self.library.has_module(module) else None
            case Imported(module=module, name=inner) if self.library.has_module(module):
                return self.library.step(Module(module), inner)
            case Value(expression=expression):
                found = self.evaluate(expression, depth)
            case Entered(expression=expression):
                base = self.evaluate(expression, depth)
                found = self.library.entered(base) if isinstance(base, Instance) else None
            case Annotated(annotation=annotation):
                kind = annotation.value if isinstance(annotation, ast.Subscript) else annotation
                named = self.evaluate(kind, depth)
                if isinstance(named, Class) and named.module != "typing" and named.name != "object":
                    found = Instance((named,))
        if isinstance(found, Instance) and (not same or name in self.narrowed):
            return None
        return found

    def _patched(self) -> set[str]:
        """What the code itself puts into the standard library: canonical names, or owners when anything may be put."""
        found: set[str] = set()
        for use in self.scopes.uses:
            match use.node:
                case ast.Attribute(value=value, attr=name, ctx=ctx):
                    if not isinstance(ctx, ast.Load) or name == "__dict__":
                        base = self.evaluate(value)
                        if base is not None and not isinstance(base, Missing):
                            found.add(_canonical(base, name) if name != "__dict__" else _canonical(base, "")[:-1])
                case ast.Call(func=func, args=[first, *rest]):
                    called = func.id if isinstance(func, ast.Name) else getattr(func, "attr", "")
                    if called == "patch" and isinstance(first, ast.Constant):
                        found.add(str(first.value))
                    elif called in ("setattr", "delattr", "object", "vars", "dir"):
                        base = self.evaluate(first)
                        if base is not None and not isinstance(base, Missing):
                            constant = rest and isinstance(rest[0], ast.Constant)
                            name = str(rest[0].value) if constant and isinstance(rest[0], ast.Constant) else ""
                            found.add(_canonical(base, name) if name else _canonical(base, "")[:-1])
        return found


def _is_text(opened: ast.Call) -> bool:
    """Whether a call of open certainly gives a text file."""
    modes = [*opened.args[1:2], *(keyword.value for keyword in opened.keywords if keyword.arg in ("mode", None))]
    return all(isinstance(mode, ast.Constant) and "b" not in str(mode.value) for mode in modes)


def _canonical(base: Thing, name: str) -> str:
    match base:
        case Module("builtins"):
            return name
        case Instance(classes):
            return f"{classes[0].name}.{name}"
        case Module() | Class() | Function():
            return f"{base.name}.{name}"


def _message(mask: int, target: tuple[int, int], gone: tuple[int, int] | None, *, by_position: bool) -> str:
    if gone is not None:
        return f"removed in {gone[0]}.{gone[1]}"
    versions = versions_of(mask)
    later = [version for version in versions if version > target]
    earlier = [version for version in versions if version < target]
    if later:
        return f"needs Python 3.{later[0][1]}"
    if earlier:
        return f"removed in 3.{earlier[-1][1] + 1}"
    return "is given by position only" if by_position else "does not exist"
