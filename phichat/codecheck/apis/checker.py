"""Check of the names and keywords that code uses of the standard library against the target version."""

from __future__ import annotations

import ast
import sys
from functools import reduce
from operator import or_

from phichat.code_report import BadApi
from phichat.codecheck.apis.guards import Guard, VersionTests, find_probed_names, find_type_tested_names
from phichat.codecheck.apis.removals import find_removal
from phichat.codecheck.apis.scopes import (
    AnnotatedBinding,
    Binding,
    ImportBinding,
    Scope,
    UsageSite,
    ValueBinding,
    WithBinding,
    collect_scopes,
)
from phichat.codecheck.apis.snapshot import (
    ClassObject,
    FunctionObject,
    Inferred,
    InstanceObject,
    MissingName,
    ModuleObject,
    SnapshotObject,
    StdlibSnapshot,
    mask_to_versions,
    module_record,
)

_MAX_DEPTH = 60
_TEXT_FILE_TYPE = "_io:TextIOWrapper"
_LITERAL_TYPES: dict[type, str] = {
    ast.JoinedStr: "str", ast.List: "list", ast.ListComp: "list", ast.Dict: "dict", ast.DictComp: "dict",
    ast.Set: "set", ast.SetComp: "set", ast.Tuple: "tuple",
}  # fmt: skip
_CONSTANT_TYPES: dict[type, str] = {str: "str", bytes: "bytes", int: "int", float: "float"}


def find_bad_apis(tree: ast.Module, target: tuple[int, int]) -> list[BadApi]:
    """Return what the target version lacks on every platform, each name once, by line. Nothing is imported."""
    checker = _ApiChecker(tree, target)
    bad_apis: dict[str, BadApi] = {}
    for bad_api in (bad for use in checker.scopes.uses for bad in checker.check(use) if bad):
        if bad_api.name not in bad_apis or bad_api.line < bad_apis[bad_api.name].line:
            bad_apis[bad_api.name] = bad_api
    return sorted(bad_apis.values(), key=lambda bad: bad.line)


class _ApiChecker:
    """Infers what the expressions of a module certainly are, as far as the standard library determines it."""

    def __init__(self, tree: ast.Module, target: tuple[int, int]) -> None:
        self.target = target
        self.snapshot = StdlibSnapshot(target)
        self.scopes = collect_scopes(tree, VersionTests(tree))
        self.probed = find_probed_names(tree)
        self.type_tested = find_type_tested_names(tree)
        self.evaluated: dict[int, Inferred] = {}
        self.evaluated_bindings: dict[tuple[int, bool], Inferred] = {}
        self.patched_names: set[str] = set()
        self.patched_names = self._find_patched_names()

    def check(self, site: UsageSite) -> list[BadApi | None]:
        """Return what is missing at one place of the code; None for each name that exists."""
        if Guard.ALL in site.guards:
            return []
        match site.node:
            case ast.Import(names=aliases) if Guard.IMPORT not in site.guards:
                return [self._check_module(alias.name, alias.lineno) for alias in aliases]
            case ast.ImportFrom(module=str(module), names=aliases, level=0) as node if Guard.IMPORT not in site.guards:
                if not self.snapshot.has_module(module):
                    return [self._check_module(module, node.lineno)]
                return [self._check_from_import(ModuleObject(module), alias) for alias in aliases if alias.name != "*"]
            case ast.Attribute(attr=name, ctx=ast.Load()) as node if Guard.ATTRIBUTE not in site.guards:
                missing, base = self.infer_object(node), self.infer_object(node.value)
                if isinstance(missing, MissingName) and base is not None and not isinstance(base, MissingName):
                    line = node.end_lineno or node.lineno
                    return [self._report_missing(_canonical_name(base, name), missing.mask, line, name)]
            case ast.Call() as node if Guard.KEYWORD not in site.guards:
                return self._check_keywords(node)
        return []

    def _check_module(self, name: str, line: int) -> BadApi | None:
        """Report a missing submodule of a module that exists."""
        parts = name.split(".")
        if not self.snapshot.has_module(parts[0]) or parts[0].startswith("_"):
            return None
        for end in range(2, len(parts) + 1):
            inner, last = ".".join(parts[:end]), parts[end - 1]
            if last.startswith("_"):
                return None
            if not self.snapshot.has_module(inner):
                parent = module_record(".".join(parts[: end - 1]))
                if parent is not None and last in parent.get("x", "").split():
                    return None
                submodule = module_record(inner)
                return self._report_missing(inner, submodule["v"] if submodule else 0, line, last)
        return None

    def _check_from_import(self, module: ModuleObject, alias: ast.alias) -> BadApi | None:
        attribute = self.snapshot.resolve_attribute(module, alias.name)
        if not isinstance(attribute, MissingName):
            return None
        return self._report_missing(_canonical_name(module, alias.name), attribute.mask, alias.lineno, alias.name)

    def _check_keywords(self, node: ast.Call) -> list[BadApi | None]:
        match self.infer_object(node.func) if node.keywords else None:
            case FunctionObject() as function:
                functions = [function]
            case ClassObject() as called_class:
                functions = self.snapshot.find_constructors(called_class) or []
            case _:
                return []
        bad_apis = []
        for keyword in node.keywords:
            if keyword.arg is None or not functions:
                continue
            missing = [self.snapshot.find_missing_keyword(function, keyword.arg) for function in functions]
            if all(missing):
                mask = reduce(or_, (one.mask for one in missing if one))
                name = f"{functions[0].name}({keyword.arg}=)"
                positional_only = any(f"/{keyword.arg}" in function.keywords.split() for function in functions)
                bad_apis.append(self._report_missing(name, mask, keyword.lineno, "", positional_only=positional_only))
        return bad_apis

    def _report_missing(
        self, name: str, mask: int, line: int, attribute: str, *, positional_only: bool = False
    ) -> BadApi | None:
        removal = find_removal(name)
        if attribute in self.probed or not self.patched_names.isdisjoint((name, name.rpartition(".")[0])):
            return None
        if self._exists_at_runtime(name) or (removal is not None and self.target < removal):
            return None
        return BadApi(name, line, _format_missing(mask, self.target, removal, positional_only=positional_only))

    def _exists_at_runtime(self, name: str) -> bool:
        """Return True if this interpreter is of the target version, has the module loaded, and finds the name in it."""
        module, _, last = name.rpartition(".")
        return sys.version_info[:2] == self.target and last in vars(sys.modules.get(module, object))

    def infer_object(self, node: ast.expr, depth: int = 0) -> Inferred:
        """Return what an expression certainly is."""
        key = id(node)
        if key not in self.evaluated and depth < _MAX_DEPTH:
            self.evaluated[key] = None
            self.evaluated[key] = self._infer_uncached(node, depth + 1)
        return self.evaluated.get(key)

    def _infer_uncached(self, node: ast.expr, depth: int) -> Inferred:
        match node:
            case ast.Name(id=name):
                return self._infer_name(name, self.scopes.scope_by_node.get(id(node)), depth)
            case ast.Attribute(value=value, attr=name):
                base = self.infer_object(value, depth)
                if base is None or isinstance(base, MissingName):
                    return None
                return self.snapshot.resolve_attribute(base, name)
            case ast.Call(func=func):
                callee = self.infer_object(func, depth)
                if isinstance(callee, FunctionObject) and callee.name == "open":
                    return self.snapshot.make_instance([_TEXT_FILE_TYPE], None) if _opens_text(node) else None
                return self._infer_call(callee)
            case ast.Constant(value=value) if type(value) in _CONSTANT_TYPES:
                return self.snapshot.make_instance([f"builtins:{_CONSTANT_TYPES[type(value)]}"], None)
            case ast.BinOp(left=left, op=ast.Div()):
                base = self.infer_object(left, depth)
                if isinstance(base, InstanceObject) and base.classes[0].module.startswith("pathlib"):
                    return base
        if type(node) in _LITERAL_TYPES:
            return self.snapshot.make_instance([f"builtins:{_LITERAL_TYPES[type(node)]}"], None)
        return None

    def _infer_call(self, callee: Inferred) -> InstanceObject | None:
        match callee:
            case ClassObject(module="builtins", path="type" | "super" | "property" | "object"):
                return None
            case ClassObject():
                return InstanceObject((callee,))
            case FunctionObject(types=types, owner_class=owner) if types:
                return self.snapshot.make_instance(types, owner)
        return None

    def _infer_name(self, name: str, scope: Scope | None, depth: int) -> Inferred:
        current, is_innermost = scope, True
        while current is not None:
            owning_scope = current.declared_scopes.get(name, current)
            if any(self._may_define(name, source) for source in owning_scope.star_imports):
                return None
            if name in owning_scope.bindings and (is_innermost or not current.is_class):
                return self._infer_bindings(name, owning_scope.bindings[name], depth, same_scope=owning_scope is scope)
            current, is_innermost = current.parent, False
        builtin = self.snapshot.resolve_attribute(ModuleObject("builtins"), name)
        return None if isinstance(builtin, MissingName) else builtin

    def _may_define(self, name: str, module: str) -> bool:
        if not self.snapshot.has_module(module):
            return True
        return not isinstance(self.snapshot.resolve_attribute(ModuleObject(module), name), MissingName)

    def _infer_bindings(self, name: str, bindings: list[Binding], depth: int, *, same_scope: bool) -> Inferred:
        if len(bindings) > 1 and not isinstance(bindings[0], ImportBinding):
            return None
        key = (id(bindings), same_scope)
        if key not in self.evaluated_bindings:
            self.evaluated_bindings[key] = None
            objects = [self._infer_binding(name, one, depth, same_scope=same_scope) for one in dict.fromkeys(bindings)]
            self.evaluated_bindings[key] = None if any(one != objects[0] for one in objects) else objects[0]
        return self.evaluated_bindings[key]

    def _infer_binding(self, name: str, binding: Binding, depth: int, *, same_scope: bool) -> Inferred:
        inferred: Inferred = None
        match binding:
            case ImportBinding(module=module, name=""):
                return ModuleObject(module) if self.snapshot.has_module(module) else None
            case ImportBinding(module=module, name=inner) if self.snapshot.has_module(module):
                return self.snapshot.resolve_attribute(ModuleObject(module), inner)
            case ValueBinding(expression=expression):
                inferred = self.infer_object(expression, depth)
            case WithBinding(expression=expression):
                base = self.infer_object(expression, depth)
                inferred = self.snapshot.resolve_context_value(base) if isinstance(base, InstanceObject) else None
            case AnnotatedBinding(annotation=annotation):
                annotated = annotation.value if isinstance(annotation, ast.Subscript) else annotation
                match self.infer_object(annotated, depth):
                    case ClassObject(module=module, name=class_name) as annotated_class:
                        if module != "typing" and class_name != "object":
                            inferred = InstanceObject((annotated_class,))
        if isinstance(inferred, InstanceObject) and (not same_scope or name in self.type_tested):
            return None
        return inferred

    def _find_patched_names(self) -> set[str]:
        """Return what the code itself sets in the standard library: canonical names, or owners if it may set any."""
        names: set[str] = set()
        for use in self.scopes.uses:
            match use.node:
                case ast.Attribute(value=value, attr="__dict__"):
                    names |= self._patched_name(value, "")
                case ast.Attribute(value=value, attr=name, ctx=ast.Store() | ast.Del()):
                    names |= self._patched_name(value, name)
                case ast.Call(func=func, args=[first, *rest]):
                    called = func.id if isinstance(func, ast.Name) else getattr(func, "attr", "")
                    if called == "patch" and isinstance(first, ast.Constant):
                        names.add(str(first.value))
                    elif called in ("setattr", "delattr", "object", "vars", "dir"):
                        name = str(rest[0].value) if rest and isinstance(rest[0], ast.Constant) else ""
                        names |= self._patched_name(first, name)
        return names

    def _patched_name(self, owner: ast.expr, name: str) -> set[str]:
        base = self.infer_object(owner)
        if base is None or isinstance(base, MissingName):
            return set()
        return {_canonical_name(base, name) if name else _owner_name(base)}


def _opens_text(call: ast.Call) -> bool:
    """Return True if a call of open certainly opens a text file."""
    modes = [*call.args[1:2], *(keyword.value for keyword in call.keywords if keyword.arg in ("mode", None))]
    return all(isinstance(mode, ast.Constant) and "b" not in str(mode.value) for mode in modes)


def _owner_name(base: SnapshotObject) -> str:
    """Return the name before the dot of an attribute's canonical name, "" for builtins."""
    if isinstance(base, InstanceObject):
        return base.classes[0].name
    return "" if base == ModuleObject("builtins") else base.name


def _canonical_name(base: SnapshotObject, name: str) -> str:
    owner = _owner_name(base)
    return f"{owner}.{name}" if owner else name


def _format_missing(
    mask: int, target: tuple[int, int], removal: tuple[int, int] | None, *, positional_only: bool
) -> str:
    if removal is not None:
        return f"removed in {removal[0]}.{removal[1]}"
    versions = mask_to_versions(mask)
    if later := [version for version in versions if version > target]:
        return f"needs Python 3.{later[0][1]}"
    if earlier := [version for version in versions if version < target]:
        return f"removed in 3.{earlier[-1][1] + 1}"
    return "is positional-only" if positional_only else "does not exist"
