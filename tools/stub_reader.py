"""Reader of typeshed's stubs of the standard library: every name with the versions that have it, on any platform.

A version set is a bit mask: bit 0 is 3.10, bit 1 is 3.11 and so on. The records written here are described in
phichat/codecheck/apis/snapshot.py, which reads them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VERSIONS = tuple((3, minor) for minor in range(10, 15))
EVERY = (1 << len(VERSIONS)) - 1
KEPT_DUNDERS = {"__init__", "__new__", "__enter__", "__truediv__", "__add__", "__sub__"}
Definition = tuple[int, ast.AST]


def module_masks(stubs: Path) -> dict[str, int]:
    """The versions that have each module, from typeshed's VERSIONS."""
    masks = {}
    for line in (stubs / "VERSIONS").read_text("utf-8").splitlines():
        name, _, span = line.partition("#")[0].partition(":")
        if span:
            first, _, last = span.strip().partition("-")
            low = tuple(map(int, first.split(".")))
            high = tuple(map(int, last.split("."))) if last else (4, 0)
            masks[name.strip()] = mask_of(lambda version, low=low, high=high: low <= version <= high)
    return masks


def mask_of(holds: Any) -> int:
    return sum(1 << index for index, version in enumerate(VERSIONS) if holds(version))


def stub_files(stubs: Path) -> Iterator[tuple[str, Path, int]]:
    """Module name, file and version mask of every stub."""
    masks = module_masks(stubs)
    for path in sorted(stubs.rglob("*.pyi")):
        parts = path.relative_to(stubs).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        pieces = name.split(".")
        prefixes = [".".join(pieces[:end]) for end in range(len(pieces), 0, -1)]
        mask = next((masks[prefix] for prefix in prefixes if prefix in masks), EVERY)
        if mask and name:
            yield name, path, mask


def holds(test: ast.expr, mask: int) -> tuple[int, int]:
    """The versions for which a test of a stub is true on some platform, and for which it is false on some."""
    match test:
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yes, no = holds(operand, mask)
            return no, yes
        case ast.BoolOp(op=op, values=values):
            sides = [holds(value, mask) for value in values]
            conjunction = isinstance(op, ast.And)
            yes, no = (mask, 0) if conjunction else (0, mask)
            for side_yes, side_no in sides:
                yes, no = (yes & side_yes, no | side_no) if conjunction else (yes | side_yes, no & side_no)
            return yes, no
        case ast.Compare(left=ast.Attribute(attr="version_info"), ops=[op], comparators=[ast.Tuple(elts=elements)]):
            bound = tuple(element.value for element in elements if isinstance(element, ast.Constant))
            compare = {ast.GtE: "__ge__", ast.Lt: "__lt__", ast.Gt: "__gt__", ast.LtE: "__le__"}[type(op)]
            yes = mask & mask_of(lambda version: getattr(version, compare)(bound))
            return yes, mask & ~yes
        case ast.Name(id="TYPE_CHECKING"):
            return mask, 0
    return mask, mask


def statements(body: list[ast.stmt], mask: int) -> Iterator[tuple[int, ast.stmt]]:
    for node in body:
        if isinstance(node, ast.If):
            yes, no = holds(node.test, mask)
            if yes:
                yield from statements(node.body, yes)
            if no:
                yield from statements(node.orelse, no)
        elif isinstance(node, ast.Try):
            yield from statements(node.body, mask)
        else:
            yield mask, node


def definitions(body: list[ast.stmt], mask: int) -> dict[str, list[Definition]]:
    """What binds each name in a body."""
    found: dict[str, list[Definition]] = {}
    for versions, node in statements(body, mask):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.setdefault(node.name, []).append((versions, node))
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.setdefault(name, []).append((versions, node))
            case ast.Assign(targets=targets):
                for target in targets:
                    for part in ast.walk(target):
                        if isinstance(part, ast.Name):
                            found.setdefault(part.id, []).append((versions, node))
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                for alias in names:
                    found.setdefault(alias.asname or alias.name.partition(".")[0], []).append((versions, node))
    return found


class Stubs:
    """All stub modules, parsed; answers what a name in one of them stands for."""

    def __init__(self, stubs: Path) -> None:
        self.masks: dict[str, int] = {}
        self.trees: dict[str, ast.Module] = {}
        self.packages: set[str] = set()
        for name, path, mask in stub_files(stubs):
            self.masks[name] = mask
            self.trees[name] = ast.parse(path.read_text("utf-8"))
            if path.name == "__init__.pyi":
                self.packages.add(name)
        self.names = {name: definitions(tree.body, self.masks[name]) for name, tree in self.trees.items()}

    def source(self, module: str, node: ast.ImportFrom) -> str:
        """The absolute name of the module that is imported from."""
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        kept = parts[: len(parts) - node.level + (module in self.packages)]
        return ".".join([*kept, *([node.module] if node.module else [])])

    def stars(self, module: str) -> Iterator[tuple[int, str]]:
        for mask, node in self.names[module].get("*", []):
            if isinstance(node, ast.ImportFrom):
                yield mask, self.source(module, node)

    def all_names(self, module: str) -> set[str]:
        """The strings of __all__, from any version."""
        found: set[str] = set()
        for _, node in statements(self.trees[module].body, EVERY):
            target = getattr(node, "targets", [getattr(node, "target", None)])[0]
            if isinstance(target, ast.Name) and target.id == "__all__":
                value = getattr(node, "value", None) or ast.Constant(None)
                found |= {str(one.value) for one in ast.walk(value) if isinstance(one, ast.Constant)}
        for _, binding in self.names[module].get("__all__", []):
            if isinstance(binding, ast.ImportFrom):
                found |= self.all_names(self.source(module, binding))
        return found

    def exported(self, module: str, name: str, node: ast.AST) -> bool:
        """Whether an import in a stub makes the name part of the module."""
        match node:
            case ast.Import(names=names):
                return any(alias.asname == name == alias.name for alias in names) or name in self.all_names(module)
            case ast.ImportFrom(names=names):
                return any(alias.asname == name for alias in names) or name in self.all_names(module)
        return True

    def class_at(self, module: str, name: str, depth: int = 0) -> str | None:
        """`module:Class` of what a dotted name in a stub stands for, when that is a class."""
        if depth > 12 or module not in self.names:
            return None
        head, _, rest = name.partition(".")
        bound = self.names[module].get(head, [])
        if any(isinstance(node, ast.ClassDef) for _, node in bound):
            return f"{module}:{name}"
        for _, node in bound:
            match node:
                case ast.ImportFrom(names=names):
                    alias = next(alias for alias in names if (alias.asname or alias.name) == head)
                    source = self.source(module, node)
                    if f"{source}.{alias.name}" in self.names and rest:
                        return self.class_at(f"{source}.{alias.name}", rest, depth + 1)
                    return self.class_at(source, alias.name + (f".{rest}" if rest else ""), depth + 1)
                case ast.Import(names=names) if rest:
                    alias = next(one for one in names if (one.asname or one.name.partition(".")[0]) == head)
                    inner, last = (alias.name, rest) if alias.asname else _split(name, self.names)
                    return self.class_at(inner, last, depth + 1)
                case ast.Assign(value=ast.Name() | ast.Attribute() as value) if not rest:
                    return self.class_at(module, ast.unparse(value), depth + 1)
                case ast.AnnAssign(value=ast.Name() | ast.Attribute() as value) if not rest:
                    return self.class_at(module, ast.unparse(value), depth + 1)
        for _, source in self.stars(module):
            if found := self.class_at(source, name, depth + 1):
                return found
        if module != "builtins" and depth == 0 and head not in self.names[module]:
            return self.class_at("builtins", name, depth + 1)
        return None


def _split(name: str, modules: Any) -> tuple[str, str]:
    """A dotted name as the longest module that it begins with, and the rest."""
    parts = name.split(".")
    cut = max((end for end in range(1, len(parts)) if ".".join(parts[:end]) in modules), default=1)
    return ".".join(parts[:cut]), ".".join(parts[cut:])


if __name__ == "__main__":
    sys.exit(__doc__)
