"""Frozen dataclasses as JSON and back, by their type hints."""

from __future__ import annotations

import json
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

from phichat.types import Part

T = TypeVar("T")


def to_document(value: object) -> Any:
    """JSON's own types for a value; fields that have their default are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        set_fields = ((one.name, getattr(value, one.name)) for one in fields(value) if _is_set(one, value))
        return {name: to_document(field_value) for name, field_value in set_fields}
    if isinstance(value, Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, (tuple, list)):
        return [to_document(one) for one in value]
    return value.isoformat() if isinstance(value, datetime) else value


def _is_set(field_: Field[Any], value: object) -> bool:
    default = field_.default if field_.default_factory is MISSING else field_.default_factory()
    return bool(getattr(value, field_.name) != default)


def from_document(kind: type[T], document: object) -> T:
    """The value that `to_document` made it from; unknown fields are passed over.

    Raises ValueError for a document of another form.
    """
    value: T = _decode_value(kind, document)
    return value


def dump_json(value: object) -> str:
    """`to_document` as compact JSON in ASCII."""
    return json.dumps(to_document(value), separators=(",", ":"))


def load_json(kind: type[T], text: str) -> T:
    """What `dump` was given. Raises ValueError."""
    return from_document(kind, json.loads(text))


@cache
def _type_hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode_value(kind: Any, document: object) -> Any:
    if kind == Part:
        return msgspec.convert(document, kind)  # its error is a ValueError
    if get_origin(kind) is UnionType:
        return (
            None
            if document is None
            else _decode_value(next(one for one in get_args(kind) if one is not NoneType), document)
        )
    if get_origin(kind) is tuple and isinstance(document, list):
        return tuple(_decode_value(get_args(kind)[0], one) for one in document)
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(document, dict):
        hints = _type_hints(kind)
        try:
            return kind(
                **{
                    one.name: _decode_value(hints[one.name], document[one.name])
                    for one in fields(kind)
                    if one.name in document
                }
            )
        except TypeError as error:
            raise ValueError(f"{kind.__name__} is not complete ({error})") from error
    if kind is datetime and isinstance(document, str):
        return datetime.fromisoformat(document)
    if isinstance(kind, type) and issubclass(kind, StrEnum) and isinstance(document, str):
        return kind(document)
    if kind is float and isinstance(document, (int, float)) and not isinstance(document, bool):
        return float(document)
    if kind in (str, int, bool) and type(document) is kind:
        return document
    raise ValueError(f"{document!r} stands where {kind} should")
