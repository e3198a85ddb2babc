"""phichat's own JSON format of conversations, lossless in both directions.

    {"format": "phichat", "version": 1, "conversations": [...]}

The fields are those of `ConversationRecord` and its parts, by name; one that has its default is left
out. Times are ISO 8601 in UTC. A change that older readers must not ignore needs a new version.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from phichat.errors import TranscriptFileError
from phichat.sanitize import to_json
from phichat.transcript import codec
from phichat.transcript.records import ConversationRecord
from phichat.types import render_parts

FORMAT, VERSION = "phichat", 1
_EXPORT_AGAIN = "Export it again"
_MAX_ERROR_CHARS = 120


def write_native_json(conversations: Iterable[ConversationRecord]) -> Iterator[str]:
    """Yield the document in pieces, one conversation each, without control characters."""
    yield f'{{"format": "{FORMAT}", "version": {VERSION}, "conversations": ['
    separator = "\n"
    for conversation in conversations:
        # `live` only holds at this moment.
        exported = replace(conversation, turns=tuple(replace(turn, live=False) for turn in conversation.turns))
        yield separator + to_json(codec.to_document(exported), indent=1)
        separator = ",\n"
    yield "\n]}\n"


def read_native_json(document: Mapping[str, Any]) -> Iterator[ConversationRecord]:
    """Yield the conversations of a parsed document. Raises TranscriptFileError."""
    if (version := document.get("version")) != VERSION:
        message = f"It is a phichat document of version {version!r}; this phichat reads version {VERSION}"
        raise TranscriptFileError(message, "Update phichat")
    conversations = document.get("conversations")
    if not isinstance(conversations, list):
        raise TranscriptFileError("It has no list of conversations", _EXPORT_AGAIN)
    for number, conversation in enumerate(conversations, 1):
        try:
            record = msgspec.convert(conversation, ConversationRecord)
            if any(render_parts(turn.parts) != turn.prompt for turn in record.turns):
                raise ValueError("the parts of a prompt differ from the prompt")
            yield record
        except ValueError as error:
            reason = str(error) if len(str(error)) <= _MAX_ERROR_CHARS else f"{str(error)[:_MAX_ERROR_CHARS]}..."
            raise TranscriptFileError(f"Its conversation {number} is damaged ({reason})", _EXPORT_AGAIN) from error
