"""Conversations as phichat's own JSON, loss-free in both directions.

    {"format": "phichat", "version": 1, "conversations": [...]}

The fields are those of `ConversationRecord` and what it holds, by name; times are ISO 8601 in UTC,
enumerations their values. Every field is written, and a field that has a default may be missing when
it is read. One that is not known is refused rather than dropped: whoever wrote it knew more.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from functools import cache
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from phichat.errors import TranscriptFileError
from phichat.terminal import to_json
from phichat.transcript.records import ConversationRecord

FORMAT, VERSION = "phichat", 1
_AGAIN = "export it again"


def write(conversations: Iterable[ConversationRecord]) -> Iterator[str]:
    """The document in pieces, one conversation each. It has no character that could steer a terminal."""
    yield f'{{"format": "{FORMAT}", "version": {VERSION}, "conversations": ['
    between = "\n"
    for conversation in conversations:
        yield between + to_json(_plain(conversation), indent=1)
        between = ",\n"
    yield "\n]}\n"


def is_document(document: object) -> bool:
    """Whether this JSON is phichat's, of whatever version."""
    return isinstance(document, dict) and document.get("format") == FORMAT


def read(document: Mapping[str, Any]) -> Iterator[ConversationRecord]:
    """The conversations of a parsed document. Raises TranscriptFileError."""
    version = document.get("version")
    if version != VERSION:
        raise TranscriptFileError(
            f"It is a phichat document of version {version!r}, and this phichat reads version {VERSION}",
            "update phichat",
        )
    conversations = document.get("conversations")
    if not isinstance(conversations, list):
        raise TranscriptFileError("It has no list of conversations", _AGAIN)
    for at, conversation in enumerate(conversations):
        try:
            record = cast(ConversationRecord, _typed(ConversationRecord, conversation))
        except (ValueError, TypeError, OverflowError) as why:
            raise TranscriptFileError(f"Conversation {at + 1} of it is damaged ({why})", _AGAIN) from why
        _check_tree(record, at + 1)
        yield record


def _check_tree(record: ConversationRecord, number: int) -> None:
    parents = {turn.id: turn.parent for turn in record.turns}
    rooted: set[str | None] = {None}
    for turn in record.turns:
        path: list[str | None] = [turn.id]
        while path[-1] not in rooted and path[-1] in parents and len(path) <= len(parents):
            path.append(parents[str(path[-1])])
        if path[-1] not in rooted or len(parents) < len(record.turns):
            raise TranscriptFileError(f"Conversation {number} of it is damaged (its turns form no tree)", _AGAIN)
        rooted.update(path)
    if record.head not in rooted:
        raise TranscriptFileError(f"Conversation {number} of it is damaged (its head is no turn of it)", _AGAIN)


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        case Enum():
            return value.value
        case tuple():
            return [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return {option.name: _plain(getattr(value, option.name)) for option in dataclasses.fields(value)}
        case _:
            return value


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _typed(kind: Any, value: Any) -> Any:
    """value as kind, or ValueError with what was expected."""
    if get_origin(kind) in (Union, types.UnionType):
        return None if value is None else _typed(next(one for one in get_args(kind) if one is not type(None)), value)
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"a list is expected, not {_short(value)}")
        return tuple(_typed(get_args(kind)[0], item) for item in value)
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ValueError(f"an object is expected, not {_short(value)}")
        hints = _hints(cast(type, kind))
        if unknown := value.keys() - hints.keys():
            raise ValueError(f"nothing is known of {_short(min(unknown))}")
        return kind(**{name: _typed(hints[name], item) for name, item in value.items()})
    if kind is datetime:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"a {kind.__name__} is expected, not {_short(value)}")
    return value


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
