"""The scopes of a module: what binds each name where, what uses a name, and which code stands behind a guard."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

from phichat.codecheck.apis.guards import Guard, Tests, try_guards, with_guards

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NO_GUARD: frozenset[Guard] = frozenset()


@dataclass(frozen=True, slots=True)
class Imported:
    """name: "" for the module itself."""

    module: str
    name: str


@dataclass(frozen=True, slots=True)
class Value:
    """Bound to the value of an expression."""

    expression: ast.expr


@dataclass(frozen=True, slots=True)
class Entered:
    """Bound by a with statement."""

    expression: ast.expr


@dataclass(frozen=True, slots=True)
class Annotated:
    annotation: ast.expr


Binding = Imported | Value | Entered | Annotated | None


@dataclass(eq=False, slots=True)
class Scope:
    """bindings: None stands for a binding that tells nothing. elsewhere: names declared global or nonlocal."""

    parent: Scope | None
    is_class: bool = False
    bindings: dict[str, list[Binding]] = field(default_factory=dict)
    elsewhere: dict[str, Scope] = field(default_factory=dict)
    starred: list[str] = field(default_factory=list)

    def bind(self, name: str, binding: Binding) -> None:
        self.elsewhere.get(name, self).bindings.setdefault(name, []).append(binding)


@dataclass(frozen=True, slots=True)
class Use:
    node: ast.Attribute | ast.Call | ast.Import | ast.ImportFrom
    scope: Scope
    guards: frozenset[Guard]


@dataclass(slots=True)
class Scopes:
    """where: the scope of every node that is evaluated, by its id."""

    module: Scope
    uses: list[Use] = field(default_factory=list)
    where: dict[int, Scope] = field(default_factory=dict)


def read_scopes(tree: ast.Module, tests: Tests) -> Scopes:
    """Goes through the tree without recursion: a hostile answer may nest deeper than Python's stack."""
    found = Scopes(Scope(None))
    waiting: list[tuple[ast.AST, Scope, frozenset[Guard]]] = [(tree, found.module, _NO_GUARD)]
    while waiting:
        node, scope, guards = waiting.pop()
        if isinstance(node, ast.expr):
            found.where[id(node)] = scope
        if isinstance(node, ast.Attribute | ast.Call | ast.Import | ast.ImportFrom):
            found.uses.append(Use(node, scope, guards))
        _bind(node, scope, found.module)
        waiting.extend(reversed(_children(node, scope, guards, tests)))
    return found


def _bind(node: ast.AST, scope: Scope, module: Scope) -> None:
    match node:
        case ast.Global(names=names):
            scope.elsewhere.update(dict.fromkeys(names, module))
        case ast.Nonlocal(names=names):
            for name in names:
                owner = scope.parent
                while owner and name not in owner.bindings:
                    owner = owner.parent
                scope.elsewhere[name] = owner or module
                (owner or module).bindings.setdefault(name, []).append(None)
        case ast.Import(names=aliases):
            for alias in aliases:
                top = alias.name.partition(".")[0]
                scope.bind(alias.asname or top, Imported(alias.name if alias.asname else top, ""))
        case ast.ImportFrom(module=source, names=aliases, level=level):
            for alias in aliases:
                if alias.name == "*":
                    scope.starred.append("" if level else source or "")
                else:
                    binding = None if level or source is None else Imported(source, alias.name)
                    scope.bind(alias.asname or alias.name, binding)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            scope.bind(name, Value(value))
        case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
            scope.bind(name, Annotated(annotation) if value is not None else None)
        case ast.With(items=items):
            for item in items:
                if isinstance(item.optional_vars, ast.Name):
                    scope.bind(item.optional_vars.id, Entered(item.context_expr))
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            scope.bind(name, None)
        case ast.ExceptHandler(name=str(name)):
            scope.bind(name, None)
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            scope.bind(name, None)
        case ast.MatchMapping(rest=str(name)):
            scope.bind(name, None)
        case ast.NamedExpr(target=ast.Name(id=name)):
            scope.bind(name, None)
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            scope.bind(name, None)


Child = tuple[ast.AST, Scope, frozenset[Guard]]


def _children(node: ast.AST, scope: Scope, guards: frozenset[Guard], tests: Tests) -> list[Child]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
            return _function(node, scope, guards, tests)
        case ast.ClassDef():
            inner = Scope(scope, is_class=True)
            outer: list[ast.AST] = [*node.decorator_list, *node.bases, *node.keywords]
            return [*((one, scope, guards) for one in outer), *_body(node.body, inner, guards, tests)]
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
            inner_guards = guards | with_guards(node)
            parts = [item.context_expr for item in node.items]
            plain = isinstance(node, ast.With)
            parts += [
                i.optional_vars for i in node.items if i.optional_vars and not (plain and _is_name(i.optional_vars))
            ]
            return [*((one, scope, guards) for one in parts), *_body(node.body, scope, inner_guards, tests)]
        case ast.Try() | ast.TryStar():
            tried = guards | try_guards(node)
            parts = [*node.handlers]
            return [
                *_body(node.body, scope, tried, tests),
                *((one, scope, tried) for one in parts),
                *_body([*node.orelse, *node.finalbody], scope, guards, tests),
            ]
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test) if tests.of_version(test):
            return [(one, scope, guards | {Guard.ALL}) for one in ast.iter_child_nodes(node)]
        case ast.BoolOp(values=values) if any(tests.of_version(value) for value in values):
            return [(one, scope, guards | {Guard.ALL}) for one in values]
    children: list[Child] = []
    for name, value in ast.iter_fields(node):
        if name == "body" and isinstance(value, list):
            children += _body(value, scope, guards, tests)
        elif isinstance(value, list):
            children += [(one, scope, guards) for one in value if isinstance(one, ast.AST)]
        elif isinstance(value, ast.AST):
            children.append((value, scope, guards))
    return children


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda, scope: Scope, guards: frozenset[Guard], tests: Tests
) -> list[Child]:
    inner = Scope(scope)
    given = node.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    without_default = len(given.posonlyargs) + len(given.args) - len(given.defaults)
    for index, one in enumerate(parameters):
        certain = one.annotation is not None and index < without_default
        inner.bind(one.arg, Annotated(one.annotation) if certain and one.annotation else None)
    for extra in (given.vararg, given.kwarg):
        if extra is not None:
            inner.bind(extra.arg, None)
    annotated = [*parameters, *(one for one in (given.vararg, given.kwarg) if one)]
    outer: list[ast.AST] = [one.annotation for one in annotated if one.annotation is not None]
    outer += [one for one in (*given.defaults, *given.kw_defaults) if one is not None]
    if isinstance(node, ast.Lambda):
        return [*((one, scope, guards) for one in outer), (node.body, inner, guards)]
    if any(tests.of_version(one) for one in node.decorator_list):
        guards = guards | {Guard.ALL}
    outer += node.decorator_list
    if node.returns is not None:
        outer.append(node.returns)
    return [*((one, scope, guards) for one in outer), *_body(node.body, inner, guards, tests)]


def _body(body: list[ast.stmt], scope: Scope, guards: frozenset[Guard], tests: Tests) -> list[Child]:
    """The statements of a body; those after one that leaves on the wrong version are guarded by it."""
    children: list[Child] = []
    for statement in body:
        children.append((statement, scope, guards))
        if tests.leaves_by_version(statement):
            guards = guards | {Guard.ALL}
    return children


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)
