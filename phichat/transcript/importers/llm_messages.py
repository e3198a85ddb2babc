"""Reads llm's tree of messages, with fragments put back in."""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phichat.transcript.importers.openai import ParsedMessage


@dataclass(frozen=True, slots=True)
class ImportedTurn:
    """One turn. history: earlier prompts and answers. context_hashes: of their messages; latest first."""

    system: str | None
    history: Sequence[tuple[str, str]]
    prompt: str
    text: str
    reasoning: str
    context_hashes: Sequence[str]


class MessageStore:
    """Reads the messages of turns."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def read_turn(self, parent: str | None, tip: str | None) -> ImportedTurn:
        """Return the turn between two messages, given by their hashes."""
        context_hashes = list(self._iter_ancestors(parent, None))
        context = [self._read_message(message_hash) for message_hash in reversed(context_hashes)]
        reply = [self._read_message(found) for found in reversed(list(self._iter_ancestors(tip, parent)))]
        system = context.pop(0).text if context and context[0].role == "system" else None
        # A turn's own input is every message since the last reply of the model.
        prompt_start = len(context)
        while prompt_start and context[prompt_start - 1].role in ("user", "tool"):
            prompt_start -= 1
        return ImportedTurn(
            system or None,
            tuple(_pair_messages(context[:prompt_start])),
            "\n\n".join(message.text for message in context[prompt_start:] if message.text),
            "".join(message.text for message in reply),
            "".join(message.reasoning for message in reply),
            context_hashes,
        )

    def _iter_ancestors(self, tip: str | None, until: str | None) -> Iterator[str]:
        seen: set[str] = set()
        while tip is not None and tip != until and tip not in seen:
            seen.add(tip)
            yield tip
            row = self._database.execute("select parent_hash from messages where hash = ?", (tip,)).fetchone()
            tip = row["parent_hash"] if row else None

    def _read_message(self, message_hash: str) -> ParsedMessage:
        role = self._database.execute("select role from messages where hash = ?", (message_hash,)).fetchone()
        parts = self._database.execute("select * from parts where message_hash = ? order by position", (message_hash,))
        text = reasoning = ""
        for part in parts:
            payload = json.loads(part["payload"]) if part["payload"] else {}
            match part["type"]:
                case "reasoning":
                    reasoning += self._resolve_text(part["text"], payload)
                case "text":
                    text += self._resolve_text(part["text"], payload)
                case kind:
                    text += ("\n\n" if text else "") + self._format_part(kind, payload)
        return ParsedMessage(role["role"] if role else "", text, reasoning)

    def _resolve_text(self, literal: str | None, payload: Mapping[str, Any]) -> str:
        if "text_ref" not in payload:
            return literal or payload.get("text") or ""
        return "".join(
            reference["literal"] if "literal" in reference else self._read_fragment(reference.get("fragment"))
            for reference in payload["text_ref"]
        )

    def _read_fragment(self, fragment_id: int | None) -> str:
        row = self._database.execute("select content from fragments where id = ?", (fragment_id,)).fetchone()
        return row["content"] if row else ""

    def _format_part(self, kind: str, payload: Mapping[str, Any]) -> str:
        if kind == "tool_call":
            return f"[calls {payload.get('name')}({json.dumps(payload.get('arguments'), ensure_ascii=False)})]"
        if kind == "tool_result":
            return f"[{payload.get('name')} returned: {payload.get('output')}]"
        query = "select type, coalesce(nullif(path, ''), url) from attachments where id = ?"
        row = self._database.execute(query, ((payload.get("attachment") or {}).get("id"),)).fetchone()
        return format_attachment(*row or (None, None))


def format_attachment(kind: str | None, location: str | None) -> str:
    """Return a placeholder for an attached file, which is not imported."""
    return f"[attached: {' '.join(filter(None, [kind, location])) or 'a file'}]"


def _pair_messages(messages: Sequence[ParsedMessage]) -> Iterator[tuple[str, str]]:
    """Yield prompts with the answers that followed them."""
    prompt: str | None = None
    for message in messages:
        if message.role == "assistant":
            yield prompt or "", message.text
        elif prompt is not None:
            yield prompt, ""
        prompt = None if message.role == "assistant" else message.text
    if prompt is not None:
        yield prompt, ""
