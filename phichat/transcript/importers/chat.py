"""Messages in OpenAI's form: {"role", "content"}; and the export of ChatGPT, a tree of such messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.messages import FinishReason, ModelInfo
from phichat.transcript.importers.identity import stable_id
from phichat.transcript.records import ConversationRecord, TurnRecord

OPENAI, CHATGPT = "openai", "chatgpt"


def is_messages(document: object) -> bool:
    """A list of messages, or an object that has one."""
    listed = document.get("messages") if isinstance(document, dict) else document
    return isinstance(listed, list) and all(isinstance(one, dict) and "role" in one for one in listed)


def is_chatgpt(document: object) -> bool:
    """A conversation of ChatGPT's conversations.json."""
    return isinstance(document, dict) and isinstance(document.get("mapping"), dict)


@dataclass(frozen=True, slots=True)
class _Message:
    role: str
    text: str
    reasoning: str = ""
    moment: datetime | None = None
    model: str = ""


# OpenAI's messages


def read_messages(document: Any, unknown: datetime, occurrence: int) -> ConversationRecord:
    """One conversation. unknown: its time when it tells none. occurrence: how many like it came before."""
    fields: Mapping[str, Any] = document if isinstance(document, dict) else {}
    listed = fields["messages"] if fields else document
    moment = _moment(fields.get("created_at") or fields.get("created") or fields.get("create_time"))
    canonical = json.dumps(listed, sort_keys=True)
    key = (OPENAI, hashlib.sha256(canonical.encode()).hexdigest(), str(occurrence))
    turns: list[TurnRecord] = []
    system: str | None = None
    for message in listed:
        said = _openai(message)
        match said.role:
            case "system" | "developer":
                system = said.text
            case "assistant" if turns and not turns[-1].text and not turns[-1].reasoning:
                turns[-1] = replace(turns[-1], text=said.text, reasoning=said.reasoning)
            case role:
                number = len(turns)
                # The ids of the turns are in their order.
                identity = f"{stable_id(moment, *key)[:-6]}{number:06}"
                turn = TurnRecord(identity, turns[-1].id if turns else None, moment or unknown, "", system=system)
                model = ModelInfo(str(fields["model"])) if fields.get("model") else None
                turn = replace(turn, finished_at=turn.created_at, finish_reason=FinishReason.STOP, model=model)
                if role == "assistant":
                    turns.append(replace(turn, text=said.text, reasoning=said.reasoning))
                else:
                    turns.append(replace(turn, prompt=said.text))
    if not turns:
        raise TranscriptFileError("A conversation in it has no message of a user", "check the file")
    title = str(fields.get("title") or "") or turns[0].prompt.split("\n")[0][:80]
    begun = moment or unknown
    return ConversationRecord(
        stable_id(moment, *key), title, begun, begun, tuple(turns), turns[-1].id, f"{OPENAI}:{key[1]}:{occurrence}"
    )


def _openai(message: Mapping[str, Any]) -> _Message:
    parts = [_content(message.get("content"))]
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {} if isinstance(call, dict) else {}
        parts.append(f"[calls {function.get('name')}({function.get('arguments') or ''})]")
    if message["role"] in ("tool", "function"):
        parts[0] = f"[{message.get('name') or 'tool'} returned: {parts[0]}]"
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    return _Message(str(message["role"]), "\n\n".join(filter(None, parts)), str(reasoning))


def _content(content: object) -> str:
    match content:
        case None:
            return ""
        case str():
            return content
        case list():
            return "\n\n".join(filter(None, map(_part, content)))
        case _:
            raise TranscriptFileError("A message in it has a content that is no text", "check the file")


def _part(part: object) -> str:
    match part:
        case str():
            return part
        case {"text": str() as text}:
            return text
        case {"type": str() as kind} | {"content_type": str() as kind}:
            return f"[attached: {kind}]"
        case _:
            return "[attached: something]"


def _moment(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
        if isinstance(value, (int, float)) and value:
            return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None
    return None


# ChatGPT's tree


@dataclass(frozen=True, slots=True)
class _Open:
    """A turn that is being gathered on the way from the root; nodes: those it is made of."""

    parent: str | None
    system: str | None
    nodes: tuple[str, ...] = ()
    prompt: str = ""
    answer: tuple[_Message, ...] = ()
    moment: datetime | None = None


def read_chatgpt(document: Mapping[str, Any], unknown: datetime) -> ConversationRecord:
    """One conversation with all its branches. Raises TranscriptFileError."""
    nodes: Mapping[str, Any] = document["mapping"]
    begun = _moment(document.get("create_time")) or unknown
    unnamed = hashlib.sha256(json.dumps(sorted(nodes)).encode()).hexdigest()
    name = str(document.get("conversation_id") or document.get("id") or unnamed)
    turns: dict[str, TurnRecord] = {}
    turn_of: dict[str, str] = {}

    def close(gathered: _Open) -> str | None:
        if not gathered.nodes:
            return gathered.parent
        at = gathered.moment or begun
        identity = stable_id(at, CHATGPT, name, *gathered.nodes)
        model = next((one.model for one in gathered.answer if one.model), "")
        turns[identity] = TurnRecord(
            identity,
            gathered.parent,
            at,
            gathered.prompt,
            "\n\n".join(one.text for one in gathered.answer if one.text),
            "\n\n".join(one.reasoning for one in gathered.answer if one.reasoning),
            gathered.system,
            finished_at=next((one.moment for one in reversed(gathered.answer) if one.moment), at),
            finish_reason=FinishReason.STOP,
            model=ModelInfo(model) if model else None,
        )
        turn_of.update(dict.fromkeys(gathered.nodes, identity))
        return identity

    roots = [key for key, node in nodes.items() if isinstance(node, dict) and node.get("parent") not in nodes]
    waiting = [(root, _Open(None, None)) for root in reversed(roots)]
    seen: set[str] = set()
    while waiting:
        key, gathered = waiting.pop()
        node = nodes.get(key)
        if key in seen or not isinstance(node, dict):
            continue
        seen.add(key)
        said = _chatgpt(node.get("message"))
        if said and said.role == "system":
            gathered = replace(gathered, system=said.text or gathered.system)
        elif said and said.role == "user":
            parent = close(gathered)
            gathered = _Open(parent, gathered.system, (key,), said.text, (), said.moment)
        elif said:
            moment = gathered.moment or said.moment
            gathered = replace(gathered, nodes=(*gathered.nodes, key), answer=(*gathered.answer, said), moment=moment)
        children = [child for child in node.get("children") or () if child in nodes]
        waiting += [(child, gathered) for child in reversed(children)]
        if not children:
            close(gathered)
    if not turns:
        raise TranscriptFileError("A conversation in it has no message", "check the file")
    ordered = tuple(sorted(turns.values(), key=lambda turn: (_depth(turn, turns), turn.id)))
    head = turn_of.get(str(document.get("current_node")), ordered[-1].id)
    updated = _moment(document.get("update_time")) or max(turn.created_at for turn in ordered)
    title = str(document.get("title") or "") or ordered[0].prompt.split("\n")[0][:80]
    return ConversationRecord(
        stable_id(begun, CHATGPT, name), title, begun, max(begun, updated), ordered, head, f"{CHATGPT}:{name}"
    )


def _depth(turn: TurnRecord, turns: Mapping[str, TurnRecord]) -> int:
    depth = 0
    while turn.parent is not None:
        turn = turns[turn.parent]
        depth += 1
    return depth


def _chatgpt(message: object) -> _Message | None:
    if not isinstance(message, dict):
        return None
    author, content = message.get("author") or {}, message.get("content") or {}
    if not isinstance(author, dict) or not isinstance(content, dict):
        return None
    metadata = message.get("metadata") or {}
    moment = _moment(message.get("create_time"))
    model = str(metadata.get("model_slug") or "") if isinstance(metadata, dict) else ""
    role = str(author.get("role"))
    match content.get("content_type"):
        case "thoughts":
            thoughts: Sequence[Any] = content.get("thoughts") or ()
            reasoning = "\n\n".join(str(one.get("content") or "") for one in thoughts if isinstance(one, dict))
            return _Message(role, "", reasoning, moment, model)
        case "reasoning_recap":
            return None
        case _:
            text = _content(content.get("parts") if "parts" in content else content.get("text"))
            return _Message(role, text, "", moment, model) if text else None
