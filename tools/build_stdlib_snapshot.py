"""Write phichat/codecheck/data/stdlib.jsonl.gz: the names of the standard library from 3.10 on, on any platform.

usage: build_stdlib_snapshot.py [STUBS]

STUBS is typeshed's folder `stdlib`; without it, the one that comes with typeshed_client. Names that the stubs leave
out are added from the standard library of the Python that runs this (modules with side effects are only parsed).
"""

from __future__ import annotations

import ast
import gzip
import importlib.metadata
import importlib.util
import json
import platform
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stub_reader import EVERY, KEPT_DUNDERS, VERSIONS, Definition, Stubs, definitions

TARGET = Path(__file__).parents[1] / "phichat/codecheck/data/stdlib.jsonl.gz"
NOT_IMPORTED = {"antigravity", "this", "turtle", "tkinter", "idlelib", "lib2to3", "test", "__main__", "ensurepip"}
NOT_STANDARD = {"typing_extensions", "_typeshed"}
TRANSPARENT = {
    "classmethod",
    "staticmethod",
    "abstractmethod",
    "final",
    "overload",
    "override",
    "deprecated",
    "property",
}
NOT_CLASSES = {"Generic", "Protocol"}


class Writer:
    def __init__(self, stubs: Stubs) -> None:
        self.stubs = stubs

    def module(self, name: str) -> dict[str, Any]:
        """The record of one module."""
        names = {}
        for key, found in self.stubs.names[name].items():
            if kept := [(mask, node) for mask, node in found if self.stubs.exported(name, key, node)]:
                names[key] = kept
        record: dict[str, Any] = {"v": self.stubs.masks[name], "n": self.names(name, names, "")}
        self.add_stars(name, record["n"])
        if "__getattr__" in self.stubs.names[name]:
            record["g"] = 1
        record["n"] = {key: value for key, value in record["n"].items() if not key.startswith("_") or "." in name}
        record["n"].update(self.names(name, {key: v for key, v in names.items() if key.startswith("_")}, ""))
        return record

    def add_stars(self, module: str, names: dict[str, Any]) -> None:
        for mask, source in self.stubs.stars(module):
            wanted = self.stubs.all_names(source) or {n for n in self.stubs.names[source] if not n.startswith("_")}
            for key in sorted(wanted & self.every_name(source)):
                versions = mask & self.versions(source, key)
                if key in names and isinstance(names[key], list) and names[key][0] == "a":
                    names[key][1] |= versions
                elif key not in names:
                    names[key] = ["a", versions, source, key]

    def every_name(self, module: str) -> set[str]:
        found = set(self.stubs.names[module])
        for _, source in self.stubs.stars(module):
            found |= self.every_name(source)
        return found

    def versions(self, module: str, name: str) -> int:
        mask = 0
        for versions, _ in self.stubs.names[module].get(name, []):
            mask |= versions
        for versions, source in self.stubs.stars(module):
            mask |= versions & self.versions(source, name) if name in self.every_name(source) else 0
        return mask

    def names(self, module: str, found: dict[str, list[Definition]], inside: str) -> dict[str, Any]:
        return {
            key: self.entry(module, key, kept, inside)
            for key, kept in found.items()
            if key != "*" and (not key.startswith("__") or key in KEPT_DUNDERS)
        }

    def entry(self, module: str, name: str, found: list[Definition], inside: str) -> Any:
        mask = 0
        for versions, _ in found:
            mask |= versions
        nodes = [node for _, node in found]
        if any(isinstance(node, ast.ClassDef) for node in nodes):
            return self.klass(module, mask, list(self.classes(module, name, found)), inside)
        functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        if len(functions) == len(nodes):
            decorators = [ast.unparse(decorator) for decorator in functions[0].decorator_list]
            if any("property" in text or ".setter" in text for text in decorators):
                return ["v", mask, self.returned(module, [(v, n) for v, n in found[:1]], inside)]
            return ["f", mask, self.parameters(found, mask, inside), self.returned(module, found, inside)]
        match nodes[0]:
            case ast.ImportFrom(names=aliases) as node if len(nodes) == 1 or name != "*":
                alias = next(one for one in aliases if (one.asname or one.name) == name)
                source = self.stubs.source(module, node)
                if f"{source}.{alias.name}" in self.stubs.names:
                    return ["m", mask, f"{source}.{alias.name}"]
                if source in self.stubs.names:
                    return ["a", mask & self.target_versions(source, alias.name, mask), source, alias.name]
            case ast.Import(names=aliases):
                alias = next(one for one in aliases if (one.asname or one.name) == name)
                return ["m", mask, alias.name]
            case ast.Assign(value=ast.Attribute(value=ast.Name(id=owner), attr=method)) if kind := self.kind_of(
                module, owner
            ):
                return self.bound_method(kind, method, mask) or mask
            case ast.Assign(value=ast.Name() | ast.Attribute() as value):
                if not inside and (found_class := self.stubs.class_at(module, ast.unparse(value))):
                    return ["a", mask, *found_class.split(":")]
                if not inside and isinstance(value, ast.Name) and value.id in self.stubs.names[module]:
                    return ["a", mask, module, value.id]
            case ast.AnnAssign(annotation=annotation) if len(nodes) == 1:
                return ["v", mask, self.types(module, annotation, inside)]
        return mask

    def classes(self, module: str, name: str, found: list[Definition]) -> Iterator[tuple[int, ast.ClassDef]]:
        """The classes a name stands for, also where some versions import it from where it has moved to."""
        for versions, node in found:
            match node:
                case ast.ClassDef():
                    yield versions, node
                case ast.ImportFrom(names=aliases):
                    alias = next(one for one in aliases if (one.asname or one.name) == name)
                    moved = self.stubs.names.get(self.stubs.source(module, node), {}).get(alias.name, [])
                    yield from ((versions & mask, there) for mask, there in moved if isinstance(there, ast.ClassDef))

    def kind_of(self, module: str, variable: str) -> str | None:
        """The class of a variable of a module, such as the instance whose methods `random` offers."""
        for _, node in self.stubs.names[module].get(variable, []):
            if isinstance(node, ast.AnnAssign):
                return self.stubs.class_at(module, ast.unparse(node.annotation))
        return None

    def bound_method(self, place: str, method: str, mask: int) -> Any:
        module, _, name = place.partition(":")
        for versions, node in self.stubs.names[module].get(name, []):
            if not isinstance(node, ast.ClassDef):
                continue
            if found := definitions(node.body, versions).get(method):
                entry = self.entry(module, method, found, name)
                return [entry[0], entry[1] & mask, *entry[2:]] if isinstance(entry, list) else entry
            for base in node.bases:
                inherited = self.stubs.class_at(module, ast.unparse(base))
                if inherited and (entry := self.bound_method(inherited, method, mask)):
                    return entry
        return None

    def target_versions(self, source: str, name: str, otherwise: int) -> int:
        return self.versions(source, name) or otherwise

    def klass(self, module: str, mask: int, found: list[tuple[int, ast.ClassDef]], inside: str) -> Any:
        members: dict[str, list[Definition]] = {}
        bases: dict[str, None] = {}
        dynamic = False
        for versions, node in found:
            for key, kept in definitions(node.body, versions).items():
                members.setdefault(key, []).extend(kept)
            for base in node.bases:
                plain = base.value if isinstance(base, ast.Subscript) else base
                text = ast.unparse(plain)
                if text.rpartition(".")[2] in NOT_CLASSES:
                    continue
                if text in ("NamedTuple", "Any"):
                    dynamic = True
                elif reference := self.stubs.class_at(module, text):
                    bases[reference] = None
                elif nested := inside and self.stubs.class_at(module, f"{inside}.{text}"):
                    bases[nested] = None
                else:
                    dynamic = True
            dynamic |= any(k.arg != "metaclass" or "ABCMeta" not in ast.unparse(k.value) for k in node.keywords)
            dynamic |= any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)
        dynamic |= bool({"__getattr__", "__getattribute__"} & set(members)) and found[0][1].name not in (
            "type",
            "object",
        )
        if module == "builtins" and found[0][1].name in ("object", "type", "super", "property"):
            dynamic = found[0][1].name != "object"
        name = f"{inside}.{found[0][1].name}" if inside else found[0][1].name
        record: dict[str, Any] = {"n": self.names(module, members, name)}
        if bases:
            record["b"] = list(bases)
        if dynamic:
            record["d"] = 1
        return ["c", mask, record]

    def parameters(self, found: list[Definition], mask: int, inside: str) -> str:
        """`name`, `name:MASK` where fewer versions have it, `/name` when by position only, `**` for any keyword."""
        keywords: dict[str, int] = {}
        positional: dict[str, int] = {}
        for versions, node in found:
            assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            given = node.args
            static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
            bound = int(bool(inside) and not static)
            before = [one.arg for one in given.posonlyargs]
            after = [one.arg for one in given.args]
            first, before = (before[:bound], before[bound:]) if before else ([], before)
            after = after[bound - len(first) :] if not first else after
            for one in [*before, *(name for name in after if name.startswith("__"))]:
                positional[one.lstrip("_")] = positional.get(one.lstrip("_"), 0) | versions
            for one in [*(name for name in after if not name.startswith("__")), *(a.arg for a in given.kwonlyargs)]:
                keywords[one] = keywords.get(one, 0) | versions
            if given.kwarg:
                keywords["**"] = keywords.get("**", 0) | versions
        written = [name if versions == mask else f"{name}:{versions}" for name, versions in keywords.items()]
        return " ".join([*written, *(f"/{name}" for name in positional if name not in keywords)])

    def returned(self, module: str, found: list[Definition], inside: str) -> list[str] | int:
        """The classes of what a function returns; 0 when not known."""
        kinds: dict[str, None] = {}
        for _, node in found:
            if not isinstance(node, ast.FunctionDef) or node.returns is None:
                return 0
            names = {ast.unparse(getattr(d, "func", d)).rpartition(".")[2] for d in node.decorator_list}
            if names - TRANSPARENT:
                return 0
            types = self.types(module, node.returns, inside)
            if not isinstance(types, list) or not types:
                return 0
            kinds.update(dict.fromkeys(types))
        return list(kinds)

    def types(self, module: str, annotation: ast.expr, inside: str) -> list[str] | int:
        match annotation:
            case ast.Constant(value=str(text)):
                return self.types(module, ast.parse(text, mode="eval").body, inside)
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                sides = [side for side in (left, right) if not (isinstance(side, ast.Constant) and side.value is None)]
                known = [self.types(module, side, inside) for side in sides]
                return [name for one in known if isinstance(one, list) for name in one] if all(known) else 0
            case ast.Subscript(value=ast.Name(id="Final" | "ClassVar" | "Annotated"), slice=inner):
                return self.types(module, inner, inside) if not isinstance(inner, ast.Tuple) else 0
            case ast.Subscript(value=value):
                text = ast.unparse(value)
                return self.types(module, value, inside) if text not in ("type", "Literal", "Callable", "Union") else 0
            case ast.Name(id="Self") if inside:
                return ["self"]
            case ast.Name() | ast.Attribute():
                found = self.stubs.class_at(module, ast.unparse(annotation))
                if found and not found.startswith(("typing:", "typing_extensions:")) and found != "builtins:object":
                    return [found] if not found.partition(":")[2].startswith("_") else 0
        return 0


def undocumented(name: str, record: dict[str, Any]) -> None:
    """Adds `x`: names that the running Python has and the stubs do not."""
    spec_path = None
    if name.partition(".")[0] in sys.stdlib_module_names and name.partition(".")[0] not in NOT_IMPORTED:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, SystemExit):
            module = None
        if module is not None:
            add(record, set(dir(module)))
            for folder in getattr(module, "__path__", ()):
                add(record, {one.stem for one in Path(folder).iterdir() if one.stem.isidentifier()})
            spec_path = getattr(module, "__file__", None)
            for key, entry in record["n"].items():
                if (
                    isinstance(entry, list)
                    and entry[0] == "c"
                    and isinstance(there := getattr(module, key, None), type)
                ):
                    add(entry[2], set(dir(there)))
    else:
        spec_path = str(Path(sysconfig.get_path("stdlib"), *name.split("."))) + ".py"
    if spec_path and spec_path.endswith(".py") and Path(spec_path).is_file():
        tree = ast.parse(Path(spec_path).read_text("utf-8"))
        add(record, {one.asname or one.name for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)
                     for one in n.names} | bound(tree.body))  # fmt: skip
        for node in ast.walk(tree):
            entry = record["n"].get(node.name) if isinstance(node, ast.ClassDef) else None
            if isinstance(entry, list) and entry[0] == "c":
                assert isinstance(node, ast.ClassDef)
                add(entry[2], bound(node.body) | stored(node))


def bound(body: list[ast.stmt]) -> set[str]:
    """The names that a body binds itself, outside the functions and classes in it."""
    names = set()
    waiting: list[ast.AST] = [*body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif not isinstance(node, ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))
    return names


def stored(node: ast.ClassDef) -> set[str]:
    """The attributes that a class sets on itself."""
    return {
        one.attr
        for one in ast.walk(node)
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store) and isinstance(one.value, ast.Name)
    }


def add(record: dict[str, Any], names: set[str]) -> None:
    before = set(record.get("x", "").split())
    public = {name for name in names if not name.startswith("_")} - set(record["n"])
    if public | before:
        record["x"] = " ".join(sorted(public | before))


def preferred(stubs: Stubs, records: dict[str, dict[str, Any]]) -> dict[str, str]:
    """`module:Class` -> the shortest public name under which the class is found, where another than its own."""
    names: dict[str, str] = {}
    for module in sorted(records, key=lambda one: (one.count("."), one)):
        for key, entry in records[module]["n"].items():
            if isinstance(entry, list) and entry[0] in ("a", "c") and not module.startswith("_"):
                place = f"{module}:{key}" if entry[0] == "c" else stubs.class_at(entry[2], entry[3])
                if place and not place.startswith(("builtins:", "typing:")):
                    own = place.partition(":")[0]
                    related = own == module or own.startswith((f"{module}.", "_"))
                    if related and key == place.partition(":")[2]:
                        names.setdefault(place, f"{module}.{key}")
    return {place: name for place, name in names.items() if place.replace(":", ".") != name}


def main() -> None:
    import typeshed_client

    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(typeshed_client.__file__).parent / "typeshed"
    stubs = Stubs(folder)
    writer = Writer(stubs)
    records = {name: writer.module(name) for name in stubs.names if name.partition(".")[0] not in NOT_STANDARD}
    for name, record in records.items():
        undocumented(name, record)
    header = {
        "typeshed_client": importlib.metadata.version("typeshed_client"),
        "python": platform.python_version(),
        "versions": [f"{major}.{minor}" for major, minor in VERSIONS],
        "preferred": preferred(stubs, records),
    }
    lines = [json.dumps(header, separators=(",", ":"))]
    lines += [f"{name}\t{json.dumps(record, separators=(',', ':'))}" for name, record in sorted(records.items())]
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_bytes(gzip.compress("\n".join(lines).encode(), 9, mtime=0))
    sys.stderr.write(f"{len(records)} modules, every version {EVERY}, {TARGET.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
