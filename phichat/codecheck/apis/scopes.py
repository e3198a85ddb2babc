"""Scopes of a module: bindings and uses of its names, and the guards of each use."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from phichat.codecheck.apis.guards import Guard, VersionTests, guards_of_try, guards_of_with

_NO_GUARD: frozenset[Guard] = frozenset()


@dataclass(frozen=True, slots=True)
class ImportBinding:
    """Binding to a name of a module; name: "" for the module itself."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class ValueBinding:
    """Binding to the value of an expression."""

    expression: ast.expr


@dataclass(frozen=True, slots=True)
class WithBinding:
    """Binding to what the context manager of a with statement returns."""

    expression: ast.expr


@dataclass(frozen=True, slots=True)
class AnnotatedBinding:
    """Binding to some value of the annotated type."""

    annotation: ast.expr


Binding = ImportBinding | ValueBinding | WithBinding | AnnotatedBinding | None


@dataclass(eq=False, slots=True)
class Scope:
    """Names of a scope. bindings: None for an unknown value. declared_scopes: of names declared global or nonlocal."""

    parent: Scope | None
    is_class: bool = False
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    declared_scopes: dict[str, Scope] = field(default_factory=dict)
    star_imports: list[str] = field(default_factory=list)

    def add_binding(self, name: str, binding: Binding) -> None:
        self.declared_scopes.get(name, self).bindings.setdefault(name, []).append(binding)


@dataclass(frozen=True, slots=True)
class UsageSite:
    """Use of a name, with the guards around it."""

    node: ast.Attribute | ast.Call | ast.Import | ast.ImportFrom
    guards: frozenset[Guard]


@dataclass(slots=True)
class Scopes:
    """All scopes and uses of a module. scope_by_node: the scope of each expression, by the id of its node."""

    module: Scope
    uses: list[UsageSite] = field(default_factory=list)
    scope_by_node: dict[int, Scope] = field(default_factory=dict)


def collect_scopes(tree: ast.Module, tests: VersionTests) -> Scopes:
    """Collect the scopes of a module without recursion: an answer may nest deeper than Python's stack."""
    scopes = Scopes(Scope(None))
    stack: list[tuple[ast.AST, Scope, frozenset[Guard]]] = [(tree, scopes.module, _NO_GUARD)]
    while stack:
        node, scope, guards = stack.pop()
        if isinstance(node, ast.expr):
            scopes.scope_by_node[id(node)] = scope
        if isinstance(node, ast.Attribute | ast.Call | ast.Import | ast.ImportFrom):
            scopes.uses.append(UsageSite(node, guards))
        _bind_names(node, scope, scopes.module)
        stack.extend(reversed(_scoped_children(node, scope, guards, tests)))
    return scopes


def _bind_names(node: ast.AST, scope: Scope, module: Scope) -> None:
    match node:
        case ast.Global(names=names):
            scope.declared_scopes.update(dict.fromkeys(names, module))
        case ast.Nonlocal(names=names):
            for name in names:
                owning_scope = scope.parent
                while owning_scope and name not in owning_scope.bindings:
                    owning_scope = owning_scope.parent
                scope.declared_scopes[name] = owning_scope or module
                (owning_scope or module).bindings.setdefault(name, []).append(None)
        case ast.Import(names=aliases):
            for alias in aliases:
                top = alias.name.partition(".")[0]
                scope.add_binding(alias.asname or top, ImportBinding(alias.name if alias.asname else top, ""))
        case ast.ImportFrom(module=source, names=aliases, level=level):
            for alias in aliases:
                if alias.name == "*":
                    scope.star_imports.append("" if level else source or "")
                else:
                    binding = None if level or source is None else ImportBinding(source, alias.name)
                    scope.add_binding(alias.asname or alias.name, binding)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            scope.add_binding(name, ValueBinding(value))
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
            scope.add_binding(name, AnnotatedBinding(annotation) if value is not None else None)
        case ast.With(items=items):
            for item in items:
                if isinstance(item.optional_vars, ast.Name):
                    scope.add_binding(item.optional_vars.id, WithBinding(item.context_expr))
        case (
            ast.FunctionDef(name=name)
            | ast.AsyncFunctionDef(name=name)
            | ast.ClassDef(name=name)
            | ast.ExceptHandler(name=str(name))
            | ast.MatchAs(name=str(name))
            | ast.MatchStar(name=str(name))
            | ast.MatchMapping(rest=str(name))
            | ast.NamedExpr(target=ast.Name(id=name))
            | ast.Name(id=name, ctx=ast.Store() | ast.Del())
        ):
            scope.add_binding(name, None)


ScopedNode = tuple[ast.AST, Scope, frozenset[Guard]]


def _scoped_children(node: ast.AST, scope: Scope, guards: frozenset[Guard], tests: VersionTests) -> list[ScopedNode]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            return _function_children(node, scope, guards, tests)
        case ast.ClassDef():
            inner = Scope(scope, is_class=True)
            outer: list[ast.AST] = [*node.decorator_list, *node.bases, *node.keywords]
            return [*((one, scope, guards) for one in outer), *_body_statements(node.body, inner, guards, tests)]
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            inner = Scope(scope)
            first, *rest = node.generators
            parts: list[ast.AST] = [first.target, *first.ifs, *rest]
            parts += [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            return [(first.iter, scope, guards), *((one, inner, guards) for one in parts)]
        case ast.Assign(targets=[ast.Name()], value=value):
            return [(value, scope, guards)]
        case ast.AnnAssign(target=ast.Name()):
            return [(one, scope, guards) for one in (node.annotation, node.value) if one is not None]
        case ast.With() | ast.AsyncWith():
            inner_guards = guards | guards_of_with(node)
            parts = [item.context_expr for item in node.items]
            # `_bind_names` binds the plain names of a with statement.
            bound = ast.Name if isinstance(node, ast.With) else ()
            parts += [i.optional_vars for i in node.items if i.optional_vars and not isinstance(i.optional_vars, bound)]
            return [*((one, scope, guards) for one in parts), *_body_statements(node.body, scope, inner_guards, tests)]
        case ast.Try() | ast.TryStar():
            try_block_guards = guards | guards_of_try(node)
            parts = [*node.handlers]
            return [
                *_body_statements(node.body, scope, try_block_guards, tests),
                *((one, scope, try_block_guards) for one in parts),
                *_body_statements([*node.orelse, *node.finalbody], scope, guards, tests),
            ]
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if tests.is_version_test(test):
            return [(one, scope, guards | {Guard.ALL}) for one in ast.iter_child_nodes(node)]
        case ast.BoolOp(values=values) if any(tests.is_version_test(value) for value in values):
            return [(one, scope, guards | {Guard.ALL}) for one in values]
    children: list[ScopedNode] = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            children += _body_statements(value, scope, guards, tests)
        elif isinstance(value, list):
            children += [(one, scope, guards) for one in value if isinstance(one, ast.AST)]
        elif isinstance(value, ast.AST):
            children.append((value, scope, guards))
    return children


def _function_children(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda,
    scope: Scope,
    guards: frozenset[Guard],
    tests: VersionTests,
) -> list[ScopedNode]:
    inner = Scope(scope)
    arguments = node.args
    parameters = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    without_default = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    for index, one in enumerate(parameters):
        is_reliable = one.annotation is not None and index < without_default
        inner.add_binding(one.arg, AnnotatedBinding(one.annotation) if is_reliable and one.annotation else None)
    variadic = [one for one in (arguments.vararg, arguments.kwarg) if one]
    for one in variadic:
        inner.add_binding(one.arg, None)
    outer: list[ast.AST] = [one.annotation for one in (*parameters, *variadic) if one.annotation is not None]
    outer += [one for one in (*arguments.defaults, *arguments.kw_defaults) if one is not None]
    if isinstance(node, ast.Lambda):
        return [*((one, scope, guards) for one in outer), (node.body, inner, guards)]
    if any(tests.is_version_test(one) for one in node.decorator_list):
        guards = guards | {Guard.ALL}
    outer += node.decorator_list
    if node.returns is not None:
        outer.append(node.returns)
    return [*((one, scope, guards) for one in outer), *_body_statements(node.body, inner, guards, tests)]


def _body_statements(
    body: list[ast.stmt], scope: Scope, guards: frozenset[Guard], tests: VersionTests
) -> list[ScopedNode]:
    """Return the statements of a body; one that exits on some versions guards those after it."""
    children: list[ScopedNode] = []
    for statement in body:
        children.append((statement, scope, guards))
        if tests.exits_by_version(statement):
            guards = guards | {Guard.ALL}
    return children
