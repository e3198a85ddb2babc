"""The logs of `llm` (https://llm.datasette.io): its SQLite file, read and never written.

llm has had three schemas, and an old file that was updated has all of them: one table `logs`
(until 0.5), `conversations` and `responses` (until 0.32), and since then `threads` and `turns` over a tree of
`messages` made of `parts`. A conversation that is in more than one of them is taken from the newest.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.importers.llm_messages import MessageStore
from phichat.transcript.importers.stable_ids import id_from_ulid, stable_id
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage

ORIGIN = "llm"
"""Prefix of the origin of imported conversations."""

Row = Mapping[str, Any]


def read_llm_log(path: Path) -> Iterator[ConversationRecord]:
    """Yield all conversations, the oldest first. Raises TranscriptFileError."""
    try:
        with closing(_open_database(path)) as database:
            tables = {row["name"] for row in database.execute("select name from sqlite_master")}
            if not tables & {"turns", "responses", "logs"}:
                raise TranscriptFileError(f"{path} isn't a log of llm", "Choose the file that `llm logs path` prints")
            imported_ids: set[str] = set()
            if "turns" in tables:
                for conversation in _convert_threads(database, "responses" in tables):
                    imported_ids.add(conversation.id)
                    yield conversation
            if "responses" in tables:
                yield from _convert_responses(database, tables, imported_ids)
            if "logs" in tables:
                yield from _convert_legacy_logs(database)
    except (sqlite3.Error, ValueError, TypeError, LookupError, AttributeError) as error:
        # A damaged database, or one whose columns hold other values than llm writes.
        raise TranscriptFileError(f"{path} cannot be read as a log of llm ({error})", "Check the file") from error


def _open_database(path: Path) -> sqlite3.Connection:
    with path.open("rb") as file:
        uses_wal = file.read(20)[18:20] == b"\2\2"
    wal = path.with_name(path.name + "-wal")
    # Opening a database with a write-ahead log creates files next to it, unless it is declared immutable.
    is_immutable = uses_wal and not (wal.exists() and wal.stat().st_size)
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?{'immutable=1' if is_immutable else 'mode=ro'}", uri=True, isolation_level=None
    )
    database.row_factory = sqlite3.Row
    database.text_factory = lambda content: content.decode("utf-8", "replace")
    database.execute("begin")
    return database


def _convert_threads(database: sqlite3.Connection, has_responses: bool) -> Iterator[ConversationRecord]:
    store = MessageStore(database)
    for thread in database.execute("select * from threads order by id"):
        rows = database.execute("select * from turns where thread_id = ? order by id", (thread["id"],)).fetchall()
        turns: dict[str, TurnRecord] = {}
        turn_by_tip: dict[str, str] = {}
        if has_responses:
            # The thread was begun in the old schema and continued in the new one.
            for response in _fetch_responses(database, thread["id"], tuple(row["id"] for row in rows)):
                previous = next(reversed(turns), None)
                turn = _convert_response(database, response, previous)
                turns[turn.id] = turn
        for row in rows:
            imported = store.read_turn(row["parent_message_hash"], row["tip_message_hash"])
            created_at = _parse_time(row["datetime_utc"]) or _parse_time(thread["datetime_utc"]) or _EPOCH
            parent = next((turn_by_tip[tip] for tip in imported.context_hashes if tip in turn_by_tip), None)
            if parent is None and turns and not turn_by_tip:
                parent = next(reversed(turns))
            elif parent is None:
                for index, (prompt, answer) in enumerate(imported.history):
                    # The history that the turn was given belongs to no turn of this thread.
                    history_time = created_at - timedelta(milliseconds=len(imported.history) - index)
                    history_id = stable_id(history_time, ORIGIN, row["id"], str(index))
                    turns[history_id] = TurnRecord(
                        history_id,
                        parent,
                        created_at,
                        prompt,
                        answer,
                        system=imported.system,
                        finish_reason=FinishReason.STOP,
                    )
                    parent = history_id
            turn = replace(
                _make_turn(row, parent, imported.prompt, imported.text, created_at),
                system=imported.system,
                reasoning=imported.reasoning,
            )
            turns[turn.id] = turn
            if row["tip_message_hash"]:
                turn_by_tip[row["tip_message_hash"]] = turn.id
        if turns:
            yield _make_conversation(thread["id"], thread["name"], turns, _parse_time(thread["datetime_utc"]))


def _convert_responses(
    database: sqlite3.Connection, tables: set[str], imported_ids: set[str]
) -> Iterator[ConversationRecord]:
    names = {row["id"]: row["name"] for row in database.execute("select id, name from conversations")}
    condition = "id not in (select id from turns)" if "turns" in tables else "true"
    for row in database.execute(
        f"select coalesce(conversation_id, '') as conversation, id from responses where {condition} "
        "group by coalesce(conversation_id, id) order by min(id)"
    ).fetchall():
        source_id = row["conversation"] or row["id"]
        if _convert_id(source_id) in imported_ids:
            continue
        turns: dict[str, TurnRecord] = {}
        rows = (
            _fetch_responses(database, row["conversation"], ())
            if row["conversation"]
            else [_fetch_response(database, row["id"])]
        )
        for response in rows:
            turn = _convert_response(database, response, next(reversed(turns), None))
            turns[turn.id] = turn
        yield _make_conversation(source_id, names.get(row["conversation"]), turns, None)


def _fetch_response(database: sqlite3.Connection, response: str) -> Row:
    row: Row = database.execute("select * from responses where id = ?", (response,)).fetchone()
    return row


def _fetch_responses(database: sqlite3.Connection, conversation: str, excluded: Sequence[str]) -> Sequence[Row]:
    rows = database.execute("select * from responses where conversation_id = ? order by id", (conversation,))
    return [row for row in rows if row["id"] not in excluded]


def _convert_response(database: sqlite3.Connection, row: Row, parent: str | None) -> TurnRecord:
    prompt = "\n".join([*_fetch_fragments(database, "prompt", row["id"]), *filter(None, [row["prompt"]])])
    system_parts = [bit.strip() for bit in (*_fetch_fragments(database, "system", row["id"]), row["system"] or "")]
    parts = [prompt, *_fetch_attachments(database, row["id"]), *_fetch_tool_results(database, row["id"])]
    answer = [row["response"] or "", *_fetch_tool_calls(database, row["id"])]
    created_at = _parse_time(row["datetime_utc"]) or _EPOCH
    turn = _make_turn(row, parent, "\n\n".join(filter(None, parts)), "\n\n".join(filter(None, answer)), created_at)
    reasoning = row["reasoning"] if "reasoning" in row.keys() else None  # noqa: SIM118  (a sqlite3.Row)
    return replace(turn, system="\n\n".join(filter(None, system_parts)) or None, reasoning=reasoning or "")


def _fetch_optional(database: sqlite3.Connection, query: str, response: str) -> Sequence[Row]:
    try:
        return database.execute(query, (response,)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such" not in str(error):
            raise
        return ()  # written by an llm without that table


def _fetch_fragments(database: sqlite3.Connection, kind: str, response: str) -> Iterator[str]:
    query = (
        f"select content from {kind}_fragments join fragments on fragments.id = fragment_id "
        f'where response_id = ? order by "order"'
    )
    yield from (row["content"] for row in _fetch_optional(database, query, response))


def _fetch_attachments(database: sqlite3.Connection, response: str) -> Iterator[str]:
    query = (
        "select attachments.* from prompt_attachments join attachments on attachments.id = attachment_id "
        'where response_id = ? order by "order"'
    )
    for row in _fetch_optional(database, query, response):
        yield format_attachment(row["type"], row["path"] or row["url"])


def format_attachment(kind: str | None, location: str | None) -> str:
    """Return a placeholder for an attached file, which is not imported."""
    return f"[attached: {' '.join(filter(None, [kind, location])) or 'a file'}]"


def _fetch_tool_calls(database: sqlite3.Connection, response: str) -> Iterator[str]:
    for row in _fetch_optional(database, "select * from tool_calls where response_id = ? order by id", response):
        yield f"[calls {row['name']}({row['arguments'] or ''})]"


def _fetch_tool_results(database: sqlite3.Connection, response: str) -> Iterator[str]:
    for row in _fetch_optional(database, "select * from tool_results where response_id = ? order by id", response):
        yield f"[{row['name']} returned: {row['output'] or ''}]"


def _convert_legacy_logs(database: sqlite3.Connection) -> Iterator[ConversationRecord]:
    chats: dict[int, list[Row]] = {}
    for row in database.execute("select * from logs order by id"):
        chats.setdefault(row["chat_id"] or row["id"], []).append(row)
    for chat, rows in chats.items():
        turns: dict[str, TurnRecord] = {}
        for row in rows:
            created_at = _parse_time(row["datetime_utc"]) or _EPOCH
            numbered = {**row, "id": stable_id(created_at, ORIGIN, "logs", str(row["id"]))}
            turn = _make_turn(
                numbered, next(reversed(turns), None), row["prompt"] or "", row["response"] or "", created_at
            )
            turns[turn.id] = replace(turn, system=row["system"] or None)
        yield _make_conversation(f"logs {chat}", None, turns, None)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _convert_id(source_id: str) -> str:
    return id_from_ulid(source_id) or stable_id(None, ORIGIN, source_id)


def _make_conversation(
    source_id: str, name: str | None, turns: Mapping[str, TurnRecord], started_at: datetime | None
) -> ConversationRecord:
    ordered = tuple(turns.values())
    created_at = started_at or min(turn.created_at for turn in ordered)
    updated_at = max(turn.finished_at or turn.created_at for turn in ordered)
    title = name or next(iter(ordered[0].prompt.split("\n")))[:80]
    return ConversationRecord(
        _convert_id(source_id),
        title,
        min(created_at, updated_at),
        updated_at,
        ordered,
        ordered[-1].id,
        f"{ORIGIN}:{source_id}",
    )


def _make_turn(row: Row, parent: str | None, prompt: str, text: str, created_at: datetime) -> TurnRecord:
    columns = row.keys()
    seconds = (row["duration_ms"] or 0) / 1000
    tokens = [row[name] if name in columns else None for name in ("input_tokens", "output_tokens")]
    options = _convert_options(row["options_json"])
    return TurnRecord(
        _convert_id(row["id"]),
        parent,
        created_at,
        prompt,
        text,
        finished_at=created_at + timedelta(seconds=seconds),
        finish_reason=FinishReason.STOP,
        model=ModelInfo(row["model"]) if row["model"] else None,
        params=SamplingParams(**options) if options else None,
        seed=options.get("seed"),
        usage=Usage(tokens[0] or 0, 0, tokens[1] or 0) if any(tokens) else None,
        timings=Timings(generation_s=seconds) if seconds else None,
    )


_OPTIONS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "temperature": ("temperature", float),
    "top_p": ("top_p", float),
    "top_k": ("top_k", int),
    "min_p": ("min_p", float),
    "repeat_penalty": ("repeat_penalty", float),
    "seed": ("seed", int),
    "max_tokens": ("max_tokens", int),
    "num_predict": ("max_tokens", int),
}


def _convert_options(text: str | None) -> dict[str, Any]:
    """Return the options of llm's plugins that phichat has too."""
    try:
        llm_options = json.loads(text or "{}")
        return {
            _OPTIONS[name][0]: _OPTIONS[name][1](value)
            for name, value in llm_options.items()
            if name in _OPTIONS and value is not None
        }
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _parse_time(text: str | None) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
