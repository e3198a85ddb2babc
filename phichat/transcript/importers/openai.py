"""Messages in OpenAI's form: {"role", "content"}; and the export of ChatGPT, a tree of such messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.importers.stable_ids import stable_id
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo

OPENAI, CHATGPT = "openai", "chatgpt"


def is_message_list(document: object) -> bool:
    """A list of messages, or an object that has one."""
    messages = document.get("messages") if isinstance(document, dict) else document
    return isinstance(messages, list) and all(isinstance(one, dict) and "role" in one for one in messages)


def is_chatgpt_conversation(document: object) -> bool:
    """A conversation of ChatGPT's conversations.json."""
    return isinstance(document, dict) and isinstance(document.get("mapping"), dict)


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str
    reasoning: str = ""
    created_at: datetime | None = None
    model: str = ""


# OpenAI's messages


def convert_openai(document: Any, default_time: datetime, duplicate_index: int) -> ConversationRecord:
    """One conversation. unknown: its time when it tells none. occurrence: how many like it came before."""
    fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
    messages = fields["messages"] if fields else document
    created_at = _parse_time(fields.get("created_at") or fields.get("created") or fields.get("create_time"))
    canonical = json.dumps(messages, sort_keys=True)
    key = (OPENAI, hashlib.sha256(canonical.encode()).hexdigest(), str(duplicate_index))
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
                number = len(turns)
                # The ids of the turns are in their order.
                turn_id = f"{stable_id(created_at, *key)[:-6]}{number:06}"
                turn = TurnRecord(
                    turn_id, turns[-1].id if turns else None, created_at or default_time, "", system=system
                )
                model = ModelInfo(str(fields["model"])) if fields.get("model") else None
                turn = replace(turn, finished_at=turn.created_at, finish_reason=FinishReason.STOP, model=model)
                if role == "assistant":
                    turns.append(replace(turn, text=parsed.text, reasoning=parsed.reasoning))
                else:
                    turns.append(replace(turn, prompt=parsed.text))
    if not turns:
        raise TranscriptFileError("A conversation in it has no message of a user", "Check the file")
    title = str(fields.get("title") or "") or turns[0].prompt.split("\n")[0][:80]
    started_at = created_at or default_time
    return ConversationRecord(
        stable_id(created_at, *key),
        title,
        started_at,
        started_at,
        tuple(turns),
        turns[-1].id,
        f"{OPENAI}:{key[1]}:{duplicate_index}",
    )


def _parse_openai(message: Mapping[str, Any]) -> _Message:
    parts = [_content_text(message.get("content"))]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {} if isinstance(call, dict) else {}
        parts.append(f"[calls {function.get('name')}({function.get('arguments') or ''})]")
    if message["role"] in ("tool", "function"):
        parts[0] = f"[{message.get('name') or 'tool'} returned: {parts[0]}]"
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return _Message(str(message["role"]), "\n\n".join(filter(None, parts)), str(reasoning))


def _content_text(content: object) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            return "\n\n".join(filter(None, map(_part_text, content)))
        case _:
            raise TranscriptFileError("A message in it has a content that is no text", "Check the file")


def _part_text(part: object) -> str:
    match part:
        case str():
            return part
        case {"text": str() as text}:
            return text
        case {"type": str() as kind} | {"content_type": str() as kind}:
            return f"[attached: {kind}]"
        case _:
            return "[attached: something]"


def _parse_time(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            parsed = datetime.fromisoformat(value)
            return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, (int, float)) and value:
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


# ChatGPT's tree


@dataclass(frozen=True, slots=True)
class _OpenTurn:
    """A turn that is being gathered on the way from the root; nodes: those it is made of."""

    parent: str | None
    system: str | None
    nodes: tuple[str, ...] = ()
    prompt: str = ""
    answer: tuple[_Message, ...] = ()
    created_at: datetime | None = None


def convert_chatgpt(document: Mapping[str, Any], default_time: datetime) -> ConversationRecord:
    """One conversation with all its branches. Raises TranscriptFileError."""
    nodes: Mapping[str, Any] = document["mapping"]
    started_at = _parse_time(document.get("create_time")) or default_time
    fallback_name = hashlib.sha256(json.dumps(sorted(nodes)).encode()).hexdigest()
    name = str(document.get("conversation_id") or document.get("id") or fallback_name)
    turns: dict[str, TurnRecord] = {}
    turn_of: dict[str, str] = {}

    def finish_turn(open_turn: _OpenTurn) -> str | None:
        if not open_turn.nodes:
            return open_turn.parent
        created_at = open_turn.created_at or started_at
        turn_id = stable_id(created_at, CHATGPT, name, *open_turn.nodes)
        model = next((one.model for one in open_turn.answer if one.model), "")
        turns[turn_id] = TurnRecord(
            turn_id,
            open_turn.parent,
            created_at,
            open_turn.prompt,
            "\n\n".join(one.text for one in open_turn.answer if one.text),
            "\n\n".join(one.reasoning for one in open_turn.answer if one.reasoning),
            open_turn.system,
            finished_at=next((one.created_at for one in reversed(open_turn.answer) if one.created_at), created_at),
            finish_reason=FinishReason.STOP,
            model=ModelInfo(model) if model else None,
        )
        turn_of.update(dict.fromkeys(open_turn.nodes, turn_id))
        return turn_id

    roots = [key for key, node in nodes.items() if isinstance(node, dict) and node.get("parent") not in nodes]
    stack = [(root, _OpenTurn(None, None)) for root in reversed(roots)]
    seen: set[str] = set()
    while stack:
        key, open_turn = stack.pop()
        node = nodes.get(key)
        if key in seen or not isinstance(node, dict):
            continue
        seen.add(key)
        parsed = _parse_chatgpt(node.get("message"))
        if parsed and parsed.role == "system":
            open_turn = replace(open_turn, system=parsed.text or open_turn.system)
        elif parsed and parsed.role == "user":
            parent = finish_turn(open_turn)
            open_turn = _OpenTurn(parent, open_turn.system, (key,), parsed.text, (), parsed.created_at)
        elif parsed:
            created_at = open_turn.created_at or parsed.created_at
            open_turn = replace(
                open_turn, nodes=(*open_turn.nodes, key), answer=(*open_turn.answer, parsed), created_at=created_at
            )
        children = [child for child in node.get("children") or () if child in nodes]
        stack += [(child, open_turn) for child in reversed(children)]
        if not children:
            finish_turn(open_turn)
    if not turns:
        raise TranscriptFileError("A conversation in it has no message", "Check the file")
    ordered = tuple(sorted(turns.values(), key=lambda turn: (_turn_depth(turn, turns), turn.id)))
    head = turn_of.get(str(document.get("current_node")), ordered[-1].id)
    updated = _parse_time(document.get("update_time")) or max(turn.created_at for turn in ordered)
    title = str(document.get("title") or "") or ordered[0].prompt.split("\n")[0][:80]
    return ConversationRecord(
        stable_id(started_at, CHATGPT, name),
        title,
        started_at,
        max(started_at, updated),
        ordered,
        head,
        f"{CHATGPT}:{name}",
    )


def _turn_depth(turn: TurnRecord, turns: Mapping[str, TurnRecord]) -> int:
    depth = 0
    while turn.parent is not None:
        turn = turns[turn.parent]
        depth += 1
    return depth


def _parse_chatgpt(message: object) -> _Message | None:
    if not isinstance(message, dict):
        return None
    author, content = message.get("author") or {}, message.get("content") or {}
    if not isinstance(author, dict) or not isinstance(content, dict):
        return None
    metadata = message.get("metadata") or {}
    created_at = _parse_time(message.get("create_time"))
    model = str(metadata.get("model_slug") or "") if isinstance(metadata, dict) else ""
    role = str(author.get("role"))
    match content.get("content_type"):
        case "thoughts":
            thoughts: Sequence[Any] = content.get("thoughts") or ()
            reasoning = "\n\n".join(str(one.get("content") or "") for one in thoughts if isinstance(one, dict))
            return _Message(role, "", reasoning, created_at, model)
        case "reasoning_recap":
            return None
        case _:
            text = _content_text(content.get("parts") if "parts" in content else content.get("text"))
            return _Message(role, text, "", created_at, model) if text else None
