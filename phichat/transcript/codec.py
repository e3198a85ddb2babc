"""Encodes frozen dataclasses as JSON without the fields that have their default, and decodes them."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def to_document(value: object) -> Any:
    """Return a value in JSON's own types; fields that have their default are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        document = {}
        for field in fields(value):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if (field_value := getattr(value, field.name)) != default:
                document[field.name] = to_document(field_value)
        return document
    if isinstance(value, (tuple, list)):
        return [to_document(one) for one in value]
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    return value.isoformat() if isinstance(value, datetime) else value


def from_document(kind: type[T], document: object) -> T:
    """Return the value that `to_document` encoded; unknown fields are ignored. Raises ValueError."""
    return msgspec.convert(document, kind)  # its errors are ValueErrors


def dump_json(value: object) -> str:
    """Encode a value as compact JSON in ASCII: unlike msgspec's, it may hold lone surrogates."""
    return json.dumps(to_document(value), separators=(",", ":"))


def load_json(kind: type[T], text: str) -> T:
    """Decode what `dump_json` encoded. Raises ValueError."""
    return from_document(kind, json.loads(text))
