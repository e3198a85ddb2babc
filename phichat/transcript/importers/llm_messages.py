"""llm's tree of messages: what a turn was given and what it added, with fragments put back in."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Message:
    """One message. text: with its fragments, calls, results and names of attached files."""

    role: str
    text: str
    reasoning: str


@dataclass(frozen=True, slots=True)
class Said:
    """One turn. history: prompts and answers that it was given. before: the messages that it was given,
    by hash, the latest first."""

    system: str | None
    history: Sequence[tuple[str, str]]
    prompt: str
    text: str
    reasoning: str
    before: Sequence[str]


class MessageStore:
    """Reads messages, each once a turn."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database

    def turn(self, parent: str | None, tip: str | None) -> Said:
        """The turn between two messages."""
        before = list(self._up(parent, None))
        given = [self._message(found) for found in reversed(before)]
        added = [self._message(found) for found in reversed(list(self._up(tip, parent)))]
        system = given.pop(0).text if given and given[0].role == "system" else None
        # A turn's own input is all that was said since the model spoke last.
        own = len(given)
        while own and given[own - 1].role in ("user", "tool"):
            own -= 1
        return Said(
            system or None,
            tuple(_pairs(given[:own])),
            "\n\n".join(message.text for message in given[own:] if message.text),
            "".join(message.text for message in added),
            "".join(message.reasoning for message in added),
            before,
        )

    def _up(self, tip: str | None, until: str | None) -> Iterator[str]:
        seen: set[str] = set()
        while tip is not None and tip != until and tip not in seen:
            seen.add(tip)
            yield tip
            row = self._database.execute("select parent_hash from messages where hash = ?", (tip,)).fetchone()
            tip = row["parent_hash"] if row else None

    def _message(self, found: str) -> Message:
        role = self._database.execute("select role from messages where hash = ?", (found,)).fetchone()
        parts = self._database.execute("select * from parts where message_hash = ? order by position", (found,))
        text = reasoning = ""
        for part in parts:
            payload = json.loads(part["payload"]) if part["payload"] else {}
            match part["type"]:
                case "reasoning":
                    reasoning += self._text(part["text"], payload)
                case "text":
                    text += self._text(part["text"], payload)
                case kind:
                    text += ("\n\n" if text else "") + self._other(kind, payload)
        return Message(role["role"] if role else "", text, reasoning)

    def _text(self, literal: str | None, payload: Mapping[str, Any]) -> str:
        if "text_ref" not in payload:
            return literal or payload.get("text") or ""
        return "".join(
            piece["literal"] if "literal" in piece else self._fragment(piece.get("fragment"))
            for piece in payload["text_ref"]
        )

    def _fragment(self, number: int | None) -> str:
        row = self._database.execute("select content from fragments where id = ?", (number,)).fetchone()
        return row["content"] if row else ""

    def _other(self, kind: str, payload: Mapping[str, Any]) -> str:
        match kind:
            case "tool_call":
                return f"[calls {payload.get('name')}({json.dumps(payload.get('arguments'), ensure_ascii=False)})]"
            case "tool_result":
                return f"[{payload.get('name')} returned: {payload.get('output')}]"
            case _:
                from phichat.transcript.importers.llm import attachment

                identity = (payload.get("attachment") or {}).get("id")
                query = "select type, path, url from attachments where id = ?"
                row = self._database.execute(query, (identity,)).fetchone()
                return attachment(row["type"], row["path"] or row["url"]) if row else attachment(None, None)


def _pairs(messages: Sequence[Message]) -> Iterator[tuple[str, str]]:
    """Prompts with the answers that followed them."""
    prompt: str | None = None
    for message in messages:
        if message.role == "assistant":
            yield prompt or "", message.text
            prompt = None
        else:
            if prompt is not None:
                yield prompt, ""
            prompt = message.text
    if prompt is not None:
        yield prompt, ""
