"""Importer of messages in OpenAI's form: {"role", "content"}."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.ids import stable_id
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo


def is_message_list(document: object) -> bool:
    """Return whether a document is a list of messages, or an object that has one."""
    messages = document.get("messages") if isinstance(document, dict) else document
    return isinstance(messages, list) and all(isinstance(one, dict) and "role" in one for one in messages)


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A message of another program, reduced to text."""

    role: str
    text: str
    reasoning: str = ""
    created_at: datetime | None = None
    model: str = ""


def convert_openai(document: Any, default_time: datetime, duplicate_index: int) -> ConversationRecord:
    """Return one conversation. default_time: where it has no time. duplicate_index: equal ones that came before."""
    fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
    messages = fields["messages"] if fields else document
    created_at = parse_time(fields.get("created_at") or fields.get("created") or fields.get("create_time"))
    content_hash = hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()
    origin = ("openai", content_hash, str(duplicate_index))
    started_at, id_ = created_at or default_time, stable_id(created_at, *origin)
    model = ModelInfo(str(fields["model"])) if fields.get("model") else None
    turns: list[TurnRecord] = []
    system: str | None = None
    for message in messages:
        parsed = _parse_openai(message)
        match parsed.role:
            case "system" | "developer":
                system = parsed.text
            case "assistant" if turns and not turns[-1].text and not turns[-1].reasoning:
                turns[-1] = replace(turns[-1], text=parsed.text, reasoning=parsed.reasoning)
            case role:
                texts = ("", parsed.text, parsed.reasoning) if role == "assistant" else (parsed.text,)
                turn_id = f"{id_[:-6]}{len(turns):06}"  # ids in the order of the turns
                turn = TurnRecord(turn_id, turns[-1].id if turns else None, started_at, *texts)
                turn = replace(turn, finished_at=started_at, finish_reason=FinishReason.STOP)
                turns.append(replace(turn, system=system, model=model))
    if not turns:
        raise TranscriptFileError("It has a conversation without a user message", "Check the file")
    title = str(fields.get("title") or "") or shorten_to_title(turns[0].prompt)
    return ConversationRecord(id_, title, started_at, started_at, tuple(turns), turns[-1].id, ":".join(origin))


def shorten_to_title(prompt: str) -> str:
    """Return the title of a conversation that has none."""
    return prompt.split("\n")[0][:80]


def _parse_openai(message: Mapping[str, Any]) -> ParsedMessage:
    parts = [content_text(message.get("content"))]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {} if isinstance(call, dict) else {}
        parts.append(f"[calls {function.get('name')}({function.get('arguments') or ''})]")
    if message["role"] in ("tool", "function"):
        parts[0] = f"[{message.get('name') or 'tool'} returned: {parts[0]}]"
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return ParsedMessage(str(message["role"]), "\n\n".join(filter(None, parts)), str(reasoning))


def content_text(content: object) -> str:
    """Return the text of a message's content; parts that are not text are named. Raises TranscriptFileError."""
    if isinstance(content, list):
        return "\n\n".join(filter(None, map(_part_text, content)))
    if content is None or isinstance(content, str):
        return content or ""
    raise TranscriptFileError("It has a message whose content is not text", "Check the file")


def _part_text(part: object) -> str:
    match part:
        case (str() as text) | {"text": str() as text}:
            return text
        case {"type": str() as kind} | {"content_type": str() as kind}:
            return f"[attached: {kind}]"
        case _:
            return "[attached: something]"


def parse_time(value: object) -> datetime | None:
    """Return an ISO 8601 text or a POSIX timestamp as a time in UTC, None for anything else."""
    with suppress(ValueError, OverflowError, OSError):
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, (int, float)) and value:
            return datetime.fromtimestamp(value, UTC)
    return None
