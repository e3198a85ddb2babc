"""The standard library over its versions, as tools/build_stdlib_snapshot.py wrote it down.

The file holds a header and then one line a module: its name, a tab, a JSON record. A record has `v`, the versions
that have the module (a bit mask: bit 0 is 3.10), `n`, its names, `x`, names the stubs leave out, and `g` when the
module makes up names itself. An entry of `n` is a bare mask, or

    ["v", mask, types]            a variable or property
    ["f", mask, keywords, types]  a function: "name", "name:MASK", "/positional-only", "**" for any keyword
    ["c", mask, record]           a class: `n` and `x` as above, `b` its bases, `d` when attributes cannot be known
    ["m", mask, module]           a module
    ["a", mask, module, name]     what that module calls name

where types are "module:Class" or "self", 0 when not known.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

OLDEST, NEWEST = 10, 14
_MASK_OF_ALL = (1 << (NEWEST - OLDEST + 1)) - 1
_DEEPEST = 20
_OF_METACLASSES = {"mro", "register"}


@dataclass(frozen=True, slots=True)
class Module:
    name: str


@dataclass(frozen=True, slots=True)
class Class:
    """name: the public name it was reached by."""

    module: str
    path: str
    name: str


@dataclass(frozen=True, slots=True)
class Instance:
    """A value of one of these classes."""

    classes: tuple[Class, ...]


@dataclass(frozen=True, slots=True)
class Function:
    """keywords: see above. owner: the class it is a method of."""

    name: str
    keywords: str
    types: tuple[str, ...]
    mask: int
    owner: Class | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """There is no such name in the target version; mask: the versions that have it."""

    mask: int


Thing = Module | Class | Instance | Function


@cache
def _lines() -> tuple[dict[str, Any], dict[str, str]]:
    raw = (files("phichat.codecheck") / "data" / "stdlib.jsonl.gz").read_bytes()
    header, *lines = gzip.decompress(raw).decode("utf-8").split("\n")
    found: dict[str, Any] = json.loads(header)
    return found, dict(line.split("\t", 1) for line in lines)


@cache
def record(module: str) -> dict[str, Any] | None:
    line = _lines()[1].get(module)
    return None if line is None else json.loads(line)


def sources() -> dict[str, str]:
    """What the snapshot was made from, and the versions of that."""
    return {key: str(value) for key, value in _lines()[0].items() if key in ("typeshed_client", "python")}


def module_versions(name: str) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The first and the last version, of those known, that have a module of the standard library; None: not in it."""
    found = record(name)
    return None if found is None else (versions_of(found["v"])[0], versions_of(found["v"])[-1])


def versions_of(mask: int) -> list[tuple[int, int]]:
    return [(3, minor) for minor in range(OLDEST, NEWEST + 1) if mask >> (minor - OLDEST) & 1]


class Library:
    """The standard library of one target version; a version older or newer than those known is taken as the nearest."""

    def __init__(self, target: tuple[int, int]) -> None:
        minor = min(max(target[1] if target[0] == 3 else OLDEST, OLDEST), NEWEST)
        self.bit = 1 << (minor - OLDEST)

    def has_module(self, name: str) -> bool:
        found = record(name)
        return found is not None and bool(found["v"] & self.bit)

    def class_at(self, place: str) -> Class | None:
        """The class of a `module:Class`."""
        module, _, path = place.partition(":")
        name = _lines()[0]["preferred"].get(place) or (path if module == "builtins" else f"{module}.{path}")
        return Class(module, path, name) if _class_record(module, path) is not None else None

    def step(self, thing: Thing, name: str) -> Thing | Missing | None:
        """What an attribute is; None when that cannot be known."""
        if name.startswith("_"):
            return None
        match thing:
            case Module(module):
                return self._of_module(module, name)
            case Class():
                return self._of_class(thing, name, thing)
            case Instance(classes):
                found = [self._of_class(one, name, one) for one in classes]
                missing = [one for one in found if isinstance(one, Missing)]
                if len(missing) < len(found):
                    return found[0] if len(found) == 1 else None
                return Missing(missing[0].mask) if missing else None
            case Function():
                return None

    def _of_module(self, module: str, name: str) -> Thing | Missing | None:
        found = record(module)
        if found is None or "g" in found:
            return None
        entry = found["n"].get(name)
        inner = record(f"{module}.{name}")
        if entry is None and inner is None:
            return None if name in found.get("x", "").split() else Missing(0)
        mask = (0 if entry is None else _mask(entry)) | (inner["v"] if inner else 0)
        if not mask & self.bit:
            return None if name in found.get("x", "").split() else Missing(mask)
        if entry is None or (isinstance(entry, list) and entry[0] == "m"):
            return Module(f"{module}.{name}" if inner or entry is None else entry[2])
        display = name if module == "builtins" else f"{module}.{name}"
        return self._thing(entry, module, name, display)

    def _thing(self, entry: Any, module: str, path: str, display: str, owner: Class | None = None) -> Thing | None:
        for _ in range(_DEEPEST):
            match entry:
                case ["a", _, str(source), str(name)]:
                    module, path = source, name
                    entry = _entry(source, name)
                case ["m", _, str(name)]:
                    return Module(name)
                case ["c", *_]:
                    return Class(module, path, display)
                case ["f", mask, str(keywords), types]:
                    return Function(display, keywords, tuple(types or ()), mask, owner)
                case ["v", _, list(types)]:
                    return self.instance(types, owner)
                case _:
                    return None
        return None

    def instance(self, types: list[str] | tuple[str, ...], owner: Class | None) -> Instance | None:
        """A value of one of these types, "self" being owner."""
        classes = [owner if one == "self" else self.class_at(one) for one in types]
        known = tuple(one for one in classes if one is not None)
        return Instance(known) if known and len(known) == len(classes) else None

    def _of_class(self, owner: Class, name: str, shown: Class) -> Thing | Missing | None:
        missing = 0
        for module, path, found in self.ancestry(owner):
            if found is None:
                return None
            entry = found["n"].get(name)
            if entry is not None:
                mask = _mask(entry)
                if mask & self.bit:
                    return self._thing(entry, module, f"{path}.{name}", f"{shown.name}.{name}", shown)
                missing |= mask
            if name in found.get("x", "").split():
                return None
            if "d" in found:
                return None
        if name in _OF_METACLASSES:
            return None
        return Missing(missing)

    def entered(self, manager: Instance) -> Instance | None:
        """What a with statement binds."""
        owner = manager.classes[0]
        for _, _, found in self.ancestry(owner):
            if found is None or len(manager.classes) > 1:
                return None
            match found["n"].get("__enter__"):
                case ["f", _, _, list(types)]:
                    return self.instance(types, owner)
        return None

    def ancestry(self, owner: Class) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
        """The class and its bases, nearest first, with their records; None for one that is not known."""
        waiting, seen = [f"{owner.module}:{owner.path}"], set()
        while waiting:
            place = waiting.pop(0)
            if place in seen:
                continue
            seen.add(place)
            module, _, path = place.partition(":")
            found = _class_record(module, path)
            yield module, path, found
            if found is None:
                return
            waiting.extend(found.get("b", []))

    def constructor(self, owner: Class) -> list[Function] | None:
        """What takes the arguments of a call of the class; None when not known."""
        for _, _, found in self.ancestry(owner):
            if found is None or "d" in found:
                return None
            entries = [found["n"][name] for name in ("__init__", "__new__") if name in found["n"]]
            if entries:
                if any(not isinstance(entry, list) or entry[0] != "f" for entry in entries):
                    return None
                return [Function(owner.name, entry[2], (), entry[1], owner) for entry in entries]
        return None

    def lacks_keyword(self, function: Function, keyword: str) -> Missing | None:
        """The versions that take the keyword, when the target does not; None when it does."""
        mask = 0
        for word in function.keywords.split(" "):
            name, _, versions = word.partition(":")
            if name in (keyword, "**"):
                taken = int(versions) if versions else _MASK_OF_ALL
                if taken & self.bit:
                    return None
                mask |= taken if name == keyword else 0
        return Missing(mask)


def _mask(entry: Any) -> int:
    mask: int = entry if isinstance(entry, int) else entry[1]
    return mask


def _entry(module: str, name: str) -> Any:
    found = record(module)
    return None if found is None else found["n"].get(name)


@cache
def _class_record(module: str, path: str) -> dict[str, Any] | None:
    found = record(module)
    for part in path.split("."):
        entry = None if found is None else found["n"].get(part)
        for _ in range(_DEEPEST):
            if not (isinstance(entry, list) and entry[0] == "a"):
                break
            entry = _entry(entry[2], entry[3])
        found = entry[2] if isinstance(entry, list) and entry[0] == "c" else None
    return found
