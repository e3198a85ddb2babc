"""Import of conversations from files of other programs, and from phichat's own JSON."""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.records import ConversationRecord

_SUPPORTED_FORMATS = (
    "Choose a logs.db of llm, JSON or JSONL with messages, a conversations.json of ChatGPT, or JSON of phichat"
)


def read_file(path: Path) -> Iterator[ConversationRecord]:
    """Return the conversations of a file of any supported format.

    Raises TranscriptFileError; for a file that is damaged in the middle, after the conversations before that.
    """
    try:
        with path.open("rb") as file:
            is_database = file.read(16) == b"SQLite format 3\0"
        if is_database:
            from phichat.transcript.importers import llm

            yield from llm.read_llm_log(path)
            return
        modified_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise TranscriptFileError(f"{path} cannot be read ({error.strerror})", "Check the path") from error
    except UnicodeDecodeError as error:
        raise TranscriptFileError(f"{path} is neither a database nor UTF-8 text", _SUPPORTED_FORMATS) from error
    try:
        yield from _convert_documents(_parse_documents(text), modified_at)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise TranscriptFileError(f"{path} holds no conversations ({error})", _SUPPORTED_FORMATS) from error
    except TranscriptFileError as error:
        raise TranscriptFileError(f"{path} cannot be imported: {error.message}", error.next_step) from error


def _parse_documents(text: str) -> list[Any]:
    """Return the JSON documents of a file: one, or one per line."""
    try:
        return [json.loads(text)]
    except (ValueError, RecursionError) as document_error:
        documents = []
        # JSON's strings may hold other line ends than this one.
        for number, line in enumerate(text.split("\n"), 1):
            try:
                documents += [json.loads(line)] if line.strip() else []
            except (ValueError, RecursionError) as line_error:
                shown_error = document_error if number == 1 else line_error
                message = f"Line {number} isn't JSON ({shown_error})"
                raise TranscriptFileError(message, _SUPPORTED_FORMATS) from line_error
        return documents


def _convert_documents(documents: list[Any], modified_at: datetime) -> Iterator[ConversationRecord]:
    from phichat.transcript import native_json
    from phichat.transcript.importers import chatgpt, openai

    if not documents:
        raise TranscriptFileError("It is empty", _SUPPORTED_FORMATS)
    seen: Counter[str] = Counter()
    for document in documents:
        if isinstance(document, dict) and document.get("format") == native_json.FORMAT:
            yield from native_json.read_native_json(document)
            continue
        items = [document] if isinstance(document, dict) or openai.is_message_list(document) else document
        if not isinstance(items, list) or not items:
            raise TranscriptFileError("It holds no conversations", _SUPPORTED_FORMATS)
        for item in items:
            if isinstance(item, dict) and isinstance(item.get("mapping"), dict):
                yield chatgpt.convert_chatgpt(item, modified_at)
            elif openai.is_message_list(item) and item:
                messages = item["messages"] if isinstance(item, dict) else item
                content_key = json.dumps(messages, sort_keys=True)
                yield openai.convert_openai(item, modified_at, seen[content_key])
                seen[content_key] += 1
            else:
                raise TranscriptFileError("It holds something other than conversations", _SUPPORTED_FORMATS)
