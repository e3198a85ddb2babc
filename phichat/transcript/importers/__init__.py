"""Conversations from the files of other programs, and from phichat's own JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.records import ConversationRecord

_HELP = (
    "phichat reads the logs.db of llm, JSON and JSONL with messages, conversations.json of ChatGPT, and its own JSON"
)


def read(path: Path) -> Iterator[ConversationRecord]:
    """The conversations of a file, whichever kind it is.

    Raises TranscriptFileError, for a file that is partly good after the conversations before the fault.
    """
    try:
        with path.open("rb") as file:
            is_database = file.read(16) == b"SQLite format 3\0"
        if is_database:
            from phichat.transcript.importers import llm

            yield from llm.read(path)
            return
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as why:
        raise TranscriptFileError(f"{path} cannot be read ({why.strerror})", "check the path") from why
    except UnicodeDecodeError as why:
        raise TranscriptFileError(f"{path} is neither a database nor UTF-8 text", _HELP) from why
    try:
        yield from _documents(_parsed(text), changed)
    except (ValueError, TypeError, AttributeError, LookupError) as why:
        raise TranscriptFileError(f"{path} holds no conversations ({why})", _HELP) from why
    except TranscriptFileError as why:
        raise TranscriptFileError(f"{path} cannot be imported: {why.message}", why.next_step) from why


def _parsed(text: str) -> list[Any]:
    """The JSON documents of a file: one, or one a line."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError) as whole:
        documents = []
        # JSON's strings may hold other line ends than this one.
        for number, line in enumerate(text.split("\n"), 1):
            if not line.strip():
                continue
            try:
                documents.append(json.loads(line))
            except (ValueError, RecursionError) as why:
                said = whole if number == 1 else why
                raise TranscriptFileError(f"Line {number} is no JSON ({said})", _HELP) from why
        return documents


def _documents(documents: list[Any], changed: datetime) -> Iterator[ConversationRecord]:
    from phichat.transcript import document as own
    from phichat.transcript.importers import chat

    if not documents:
        raise TranscriptFileError("It is empty", _HELP)
    seen: Counter[str] = Counter()
    for document in documents:
        if own.is_document(document):
            yield from own.read(document)
            continue
        listed = [document] if isinstance(document, dict) or chat.is_messages(document) else document
        if not isinstance(listed, list) or not listed:
            raise TranscriptFileError("It holds no conversations", _HELP)
        for one in listed:
            if chat.is_chatgpt(one):
                yield chat.read_chatgpt(one, changed)
            elif chat.is_messages(one) and one:
                messages = one["messages"] if isinstance(one, dict) else one
                likeness = json.dumps(messages, sort_keys=True)
                yield chat.read_messages(one, changed, seen[likeness])
                seen[likeness] += 1
            else:
                raise TranscriptFileError("It holds something that is no conversation", _HELP)
