"""Encodes frozen dataclasses as JSON without the fields that have their default, and decodes them."""

import json
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def to_document(value: object) -> Any:
    """Return a value in JSON's own types; fields that have their default are left out."""
    if is_dataclass(value):
        given = ((field.name, getattr(value, field.name), field.default) for field in fields(value))
        return {name: to_document(one) for name, one, default in given if one != default}
    if isinstance(value, (tuple, list)):
        return [to_document(one) for one in value]
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return value.isoformat() if isinstance(value, datetime) else value


def dump_json(value: object) -> str:
    """Encode a value as compact JSON in ASCII: unlike msgspec's, it may hold lone surrogates."""
    return json.dumps(to_document(value), separators=(",", ":"))


def load_json(kind: type[T], text: str) -> T:
    """Decode what `dump_json` encoded; unknown fields are ignored. Raises ValueError."""
    return msgspec.convert(json.loads(text), kind)  # its errors are ValueErrors
