"""Frozen dataclasses as JSON and back, by their type hints."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_document(value: object) -> Any:
    """JSON's own types for a value; fields that have their default are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        taken = ((one.name, getattr(value, one.name)) for one in fields(value) if _is_set(one, value))
        return {name: to_document(held) for name, held in taken}
    if isinstance(value, (tuple, list)):
        return [to_document(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value


def _is_set(one: Field[Any], value: object) -> bool:
    default = one.default if one.default_factory is MISSING else one.default_factory()
    return bool(getattr(value, one.name) != default)


def from_document(kind: type[T], document: object) -> T:
    """The value that `to_document` made it from; unknown fields are passed over.

    Raises ValueError for a document of another form.
    """
    value: T = _read(kind, document)
    return value


def dump(value: object) -> str:
    """`to_document` as compact JSON in ASCII."""
    return json.dumps(to_document(value), separators=(",", ":"))


def load(kind: type[T], text: str) -> T:
    """What `dump` was given. Raises ValueError."""
    return from_document(kind, json.loads(text))


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, found: object) -> Any:
    if get_origin(kind) is UnionType:
        return None if found is None else _read(next(one for one in get_args(kind) if one is not NoneType), found)
    if get_origin(kind) is tuple and isinstance(found, list):
        return tuple(_read(get_args(kind)[0], one) for one in found)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(found, dict):
        hints = _hints(kind)
        try:
            return kind(
                **{one.name: _read(hints[one.name], found[one.name]) for one in fields(kind) if one.name in found}
            )
        except TypeError as why:
            raise ValueError(f"{kind.__name__} is not complete ({why})") from why
    if kind is datetime and isinstance(found, str):
        return datetime.fromisoformat(found)
    if isinstance(kind, type) and issubclass(kind, StrEnum) and isinstance(found, str):
        return kind(found)
    if kind is float and isinstance(found, (int, float)) and not isinstance(found, bool):
        return float(found)
    if kind in (str, int, bool) and type(found) is kind:
        return found
    raise ValueError(f"{found!r} stands where {kind} should")
