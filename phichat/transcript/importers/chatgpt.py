"""Importer of ChatGPT's conversations.json: each conversation is a tree of messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.importers.openai import ParsedMessage, content_text, parse_time
from phichat.transcript.importers.stable_ids import stable_id
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo

CHATGPT = "chatgpt"


def is_chatgpt_conversation(document: object) -> bool:
    """Return whether a document is a conversation of ChatGPT's conversations.json."""
    return isinstance(document, dict) and isinstance(document.get("mapping"), dict)


@dataclass(frozen=True, slots=True)
class _UnfinishedTurn:
    """A turn that is collected on the way from the root. nodes: of the tree, that it is made of."""

    parent: str | None
    system: str | None
    nodes: tuple[str, ...] = ()
    prompt: str = ""
    answer: tuple[ParsedMessage, ...] = ()
    created_at: datetime | None = None


def convert_chatgpt(document: Mapping[str, Any], default_time: datetime) -> ConversationRecord:
    """Return one conversation with all its branches. Raises TranscriptFileError."""
    nodes: Mapping[str, Any] = document["mapping"]
    started_at = parse_time(document.get("create_time")) or default_time
    fallback_name = hashlib.sha256(json.dumps(sorted(nodes)).encode()).hexdigest()
    name = str(document.get("conversation_id") or document.get("id") or fallback_name)
    turns: dict[str, TurnRecord] = {}
    turn_of: dict[str, str] = {}

    def finish_turn(open_turn: _UnfinishedTurn) -> str | None:
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
    stack = [(root, _UnfinishedTurn(None, None)) for root in reversed(roots)]
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
            open_turn = _UnfinishedTurn(parent, open_turn.system, (key,), parsed.text, (), parsed.created_at)
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
        raise TranscriptFileError("It has a conversation without messages", "Check the file")
    ordered = tuple(sorted(turns.values(), key=lambda turn: (_turn_depth(turn, turns), turn.id)))
    head = turn_of.get(str(document.get("current_node")), ordered[-1].id)
    updated = parse_time(document.get("update_time")) or max(turn.created_at for turn in ordered)
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


def _parse_chatgpt(message: object) -> ParsedMessage | None:
    if not isinstance(message, dict):
        return None
    author, content = message.get("author") or {}, message.get("content") or {}
    if not isinstance(author, dict) or not isinstance(content, dict):
        return None
    metadata = message.get("metadata") or {}
    created_at = parse_time(message.get("create_time"))
    model = str(metadata.get("model_slug") or "") if isinstance(metadata, dict) else ""
    role = str(author.get("role"))
    match content.get("content_type"):
        case "thoughts":
            thoughts: Sequence[Any] = content.get("thoughts") or ()
            reasoning = "\n\n".join(str(one.get("content") or "") for one in thoughts if isinstance(one, dict))
            return ParsedMessage(role, "", reasoning, created_at, model)
        case "reasoning_recap":
            return None
        case _:
            text = content_text(content.get("parts") if "parts" in content else content.get("text"))
            return ParsedMessage(role, text, "", created_at, model) if text else None
