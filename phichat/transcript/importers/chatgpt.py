"""Importer of ChatGPT's conversations.json: each conversation is a tree of messages."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.ids import stable_id
from phichat.transcript.importers.openai import ParsedMessage, content_text, parse_time, shorten_to_title
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo

_ORIGIN = "chatgpt"


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
        turn_id = stable_id(created_at, _ORIGIN, name, *open_turn.nodes)
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
            nodes_so_far, answer = (*open_turn.nodes, key), (*open_turn.answer, parsed)
            open_turn = replace(open_turn, nodes=nodes_so_far, answer=answer, created_at=created_at)
        children = [child for child in node.get("children") or () if child in nodes]
        stack += [(child, open_turn) for child in reversed(children)]
        if not children:
            finish_turn(open_turn)
    if not turns:
        raise TranscriptFileError("It has a conversation without messages", "Check the file")
    depths: dict[str | None, int] = {None: 0}
    for turn in turns.values():  # parents come first
        depths[turn.id] = depths[turn.parent] + 1
    ordered = tuple(sorted(turns.values(), key=lambda turn: (depths[turn.id], turn.id)))
    head = turn_of.get(str(document.get("current_node")), ordered[-1].id)
    updated = parse_time(document.get("update_time")) or max(turn.created_at for turn in ordered)
    title = str(document.get("title") or "") or shorten_to_title(ordered[0].prompt)
    id_, origin = stable_id(started_at, _ORIGIN, name), f"{_ORIGIN}:{name}"
    return ConversationRecord(id_, title, started_at, max(started_at, updated), ordered, head, origin)


def _parse_chatgpt(message: object) -> ParsedMessage | None:
    fields = message if isinstance(message, dict) else {}
    author, content, metadata = (fields.get(name) or {} for name in ("author", "content", "metadata"))
    if not isinstance(author, dict) or not isinstance(content, dict):
        return None
    has_thoughts, text, reasoning = content.get("content_type") == "thoughts", "", ""
    if has_thoughts:
        thoughts: Sequence[Any] = content.get("thoughts") or ()
        reasoning = "\n\n".join(str(one.get("content") or "") for one in thoughts if isinstance(one, dict))
    elif content.get("content_type") != "reasoning_recap":
        text = content_text(content.get("parts") if "parts" in content else content.get("text"))
    if not text and not has_thoughts:
        return None
    model = str(metadata.get("model_slug") or "") if isinstance(metadata, dict) else ""
    return ParsedMessage(str(author.get("role")), text, reasoning, parse_time(fields.get("create_time")), model)
