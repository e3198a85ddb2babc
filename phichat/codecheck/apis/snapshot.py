"""The standard library in each Python version, from the file that tools/build_stdlib_snapshot.py writes.

The file has a header and one line per module: its name, a tab, a JSON record. A record has `v`, the versions that
have the module (a bit mask: bit 0 is 3.10), `n`, its names, `x`, names that the stubs leave out, and `g` if the
module has a `__getattr__`. An entry of `n` is a bare mask, or

    ["v", mask, types]            a variable or property
    ["f", mask, keywords, types]  a function: "name", "name:MASK", "/positional-only", "**" for any keyword
    ["c", mask, record]           a class: `n` and `x` as above, `b` its bases, `d` for dynamic attributes
    ["m", mask, module]           a module
    ["a", mask, module, name]     an alias of that name of that module

where types are a list of "module:Class" or "self", or 0 when not known.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

_MIN_MINOR, _MAX_MINOR = 10, 14
_ALL_VERSIONS_MASK = (1 << (_MAX_MINOR - _MIN_MINOR + 1)) - 1
_MAX_ALIAS_STEPS = 20
_METACLASS_METHODS = {"mro", "register"}


@dataclass(frozen=True, slots=True)
class ModuleObject:
    """A module."""

    name: str


@dataclass(frozen=True, slots=True)
class ClassObject:
    """A class. path: within the module. name: the public name by which the code reached it."""

    module: str
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class InstanceObject:
    """An instance of one of these classes."""

    classes: tuple[ClassObject, ...]


@dataclass(frozen=True, slots=True)
class FunctionObject:
    """A function. keywords: as in the file. owner_class: the class of a method."""

    name: str
    keywords: str
    types: tuple[str, ...]
    mask: int
    owner_class: ClassObject | None = None


@dataclass(frozen=True, slots=True)
class MissingName:
    """A name that the target version lacks. mask: the versions that have it."""

    mask: int


SnapshotObject = ModuleObject | ClassObject | InstanceObject | FunctionObject
Inferred = SnapshotObject | MissingName | None
"""None when it is not known what a name or an expression is."""


@cache
def _load_snapshot() -> tuple[dict[str, Any], dict[str, str]]:
    raw = (files("phichat.codecheck") / "data" / "stdlib.jsonl.gz").read_bytes()
    header, *lines = gzip.decompress(raw).decode("utf-8").split("\n")
    metadata: dict[str, Any] = json.loads(header)
    return metadata, dict(line.split("\t", 1) for line in lines)


@cache
def module_record(module: str) -> dict[str, Any] | None:
    line = _load_snapshot()[1].get(module)
    return None if line is None else json.loads(line)


def mask_to_versions(mask: int) -> list[tuple[int, int]]:
    return [(3, minor) for minor in range(_MIN_MINOR, _MAX_MINOR + 1) if mask >> (minor - _MIN_MINOR) & 1]


class StdlibSnapshot:
    """The standard library of a target version, or of the nearest known version."""

    def __init__(self, target: tuple[int, int]) -> None:
        minor = min(max(target[1] if target[0] == 3 else _MIN_MINOR, _MIN_MINOR), _MAX_MINOR)
        self.version_bit = 1 << (minor - _MIN_MINOR)

    def has_module(self, name: str) -> bool:
        module = module_record(name)
        return module is not None and bool(module["v"] & self.version_bit)

    def find_class(self, qualified_name: str) -> ClassObject | None:
        """Return the class of a `module:Class`, None if the snapshot lacks it."""
        module, _, path = qualified_name.partition(":")
        if _class_record(module, path) is None:
            return None
        name = path if module == "builtins" else f"{module}.{path}"
        return ClassObject(module, path, _load_snapshot()[0]["preferred"].get(qualified_name) or name)

    def resolve_attribute(self, base: SnapshotObject, name: str) -> Inferred:
        """Return what an attribute is, None when that is not known."""
        if name.startswith("_"):
            return None
        match base:
            case ModuleObject(module):
                return self._resolve_in_module(module, name)
            case ClassObject():
                return self._resolve_in_class(base, name)
            case InstanceObject(classes):
                attributes = [self._resolve_in_class(one, name) for one in classes]
                missing = [one for one in attributes if isinstance(one, MissingName)]
                if len(missing) < len(attributes):
                    return attributes[0] if len(attributes) == 1 else None
                return MissingName(missing[0].mask) if missing else None
            case FunctionObject():
                return None

    def _resolve_in_module(self, module: str, name: str) -> Inferred:
        module_entry = module_record(module)
        if module_entry is None or "g" in module_entry:
            return None
        entry = module_entry["n"].get(name)
        inner = module_record(f"{module}.{name}")
        mask = (0 if entry is None else _entry_mask(entry)) | (inner["v"] if inner else 0)
        if not mask & self.version_bit:
            return None if name in module_entry.get("x", "").split() else MissingName(mask)
        if entry is None or (isinstance(entry, list) and entry[0] == "m"):
            return ModuleObject(f"{module}.{name}" if inner or entry is None else entry[2])
        display = name if module == "builtins" else f"{module}.{name}"
        return self._decode_object(entry, module, name, display)

    def _decode_object(
        self, entry: Any, module: str, path: str, display: str, owner_class: ClassObject | None = None
    ) -> SnapshotObject | None:
        for _ in range(_MAX_ALIAS_STEPS):
            match entry:
                case ["a", _, str(source), str(name)]:
                    module, path = source, name
                    entry = _find_entry(source, name)
                case ["m", _, str(name)]:
                    return ModuleObject(name)
                case ["c", *_]:
                    return ClassObject(module, path, display)
                case ["f", mask, str(keywords), types]:
                    return FunctionObject(display, keywords, tuple(types or ()), mask, owner_class)
                case ["v", _, list(types)]:
                    return self.make_instance(types, owner_class)
                case _:
                    return None
        return None

    def make_instance(self, types: Sequence[str], self_class: ClassObject | None) -> InstanceObject | None:
        """Return an instance of one of these types, where "self" is self_class; None when a type is not known."""
        classes = [self_class if one == "self" else self.find_class(one) for one in types]
        known_classes = tuple(one for one in classes if one is not None)
        return InstanceObject(known_classes) if known_classes and len(known_classes) == len(classes) else None

    def _resolve_in_class(self, class_object: ClassObject, name: str) -> Inferred:
        missing = 0
        for module, path, record in self.iter_bases(class_object):
            if record is None:
                return None
            entry = record["n"].get(name)
            if entry is not None:
                if _entry_mask(entry) & self.version_bit:
                    display = f"{class_object.name}.{name}"
                    return self._decode_object(entry, module, f"{path}.{name}", display, class_object)
                missing |= _entry_mask(entry)
            if "d" in record or name in record.get("x", "").split():
                return None
        return None if name in _METACLASS_METHODS else MissingName(missing)

    def resolve_context_value(self, manager: InstanceObject) -> InstanceObject | None:
        """Return what a with statement binds."""
        owner = manager.classes[0]
        for _, _, found in self.iter_bases(owner):
            if found is None or len(manager.classes) > 1:
                return None
            match found["n"].get("__enter__"):
                case ["f", _, _, list(types)]:
                    return self.make_instance(types, owner)
        return None

    def iter_bases(self, class_object: ClassObject) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
        """Yield module, path and record of a class and its bases, nearest first; None for an unknown record."""
        queue, seen = [f"{class_object.module}:{class_object.path}"], set()
        while queue:
            qualified_name = queue.pop(0)
            if qualified_name in seen:
                continue
            seen.add(qualified_name)
            module, _, path = qualified_name.partition(":")
            found = _class_record(module, path)
            yield module, path, found
            if found is None:
                return
            queue.extend(found.get("b", []))

    def find_constructors(self, class_object: ClassObject) -> list[FunctionObject] | None:
        """Return the functions that take the arguments of a call of the class, None when not known."""
        for _, _, found in self.iter_bases(class_object):
            if found is None or "d" in found:
                return None
            entries = [found["n"][name] for name in ("__init__", "__new__") if name in found["n"]]
            if entries:
                if any(not isinstance(entry, list) or entry[0] != "f" for entry in entries):
                    return None
                return [FunctionObject(class_object.name, entry[2], (), entry[1], class_object) for entry in entries]
        return None

    def find_missing_keyword(self, function: FunctionObject, keyword: str) -> MissingName | None:
        """Return the versions that take the keyword if the target does not, None if it does."""
        mask = 0
        for entry in function.keywords.split(" "):
            name, _, versions = entry.partition(":")
            if name in (keyword, "**"):
                supported = int(versions) if versions else _ALL_VERSIONS_MASK
                if supported & self.version_bit:
                    return None
                mask |= supported if name == keyword else 0
        return MissingName(mask)


def _entry_mask(entry: Any) -> int:
    mask: int = entry if isinstance(entry, int) else entry[1]
    return mask


def _find_entry(module: str, name: str) -> Any:
    found = module_record(module)
    return None if found is None else found["n"].get(name)


@cache
def _class_record(module: str, path: str) -> dict[str, Any] | None:
    found = module_record(module)
    for part in path.split("."):
        entry = None if found is None else found["n"].get(part)
        for _ in range(_MAX_ALIAS_STEPS):
            if not (isinstance(entry, list) and entry[0] == "a"):
                break
            entry = _find_entry(entry[2], entry[3])
        found = entry[2] if isinstance(entry, list) and entry[0] == "c" else None
    return found
