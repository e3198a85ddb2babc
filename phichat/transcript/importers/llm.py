"""The logs of `llm` (https://llm.datasette.io): its SQLite file, read and never written.

llm has kept its logs in three ways, and a file that was carried along has all of them: one table `logs`
(until 0.5), `conversations` and `responses` (until 0.32), and since then `threads` and `turns` over a tree of
`messages` made of `parts`. Whatever is in more than one of them is taken from the newest.
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
from phichat.messages import FinishReason, GenerationParams, ModelInfo, Timings, Usage
from phichat.transcript.importers.identity import from_ulid, stable_id
from phichat.transcript.importers.llm_messages import MessageStore
from phichat.transcript.records import ConversationRecord, TurnRecord

ORIGIN = "llm"
"""Before the colon in the origin of what is imported."""

Row = Mapping[str, Any]


def read(path: Path) -> Iterator[ConversationRecord]:
    """All conversations, the oldest first. Raises TranscriptFileError."""
    try:
        with closing(_open(path)) as database:
            tables = {row["name"] for row in database.execute("select name from sqlite_master")}
            if not tables & {"turns", "responses", "logs"}:
                raise TranscriptFileError(f"{path} is no log of llm", "give the file that `llm logs path` names")
            newer: set[str] = set()
            if "turns" in tables:
                for conversation in _threads(database, "responses" in tables):
                    newer.add(conversation.id)
                    yield conversation
            if "responses" in tables:
                yield from _responses(database, tables, newer)
            if "logs" in tables:
                yield from _first_logs(database)
    except (sqlite3.Error, ValueError, TypeError, LookupError, AttributeError) as why:
        # A damaged database, or one whose columns hold something else than llm puts there.
        raise TranscriptFileError(f"{path} cannot be read as a log of llm ({why})", "check the file") from why


def _open(path: Path) -> sqlite3.Connection:
    with path.open("rb") as file:
        keeps_wal = file.read(20)[18:20] == b"\2\2"
    wal = path.with_name(path.name + "-wal")
    # Opening a database with a write-ahead log leaves files beside it, unless it is said to be at rest.
    at_rest = keeps_wal and not (wal.exists() and wal.stat().st_size)
    database = sqlite3.connect(
        f"{path.absolute().as_uri()}?{'immutable=1' if at_rest else 'mode=ro'}", uri=True, isolation_level=None
    )
    database.row_factory = sqlite3.Row
    database.text_factory = lambda content: content.decode("utf-8", "replace")
    database.execute("begin")
    return database


def _threads(database: sqlite3.Connection, has_responses: bool) -> Iterator[ConversationRecord]:
    store = MessageStore(database)
    for thread in database.execute("select * from threads order by id"):
        rows = database.execute("select * from turns where thread_id = ? order by id", (thread["id"],)).fetchall()
        turns: dict[str, TurnRecord] = {}
        by_tip: dict[str, str] = {}
        if has_responses:
            # Begun before the tree of messages, continued after.
            for response in _responses_of(database, thread["id"], tuple(row["id"] for row in rows)):
                before = next(reversed(turns), None)
                turn = _response(database, response, before)
                turns[turn.id] = turn
        for row in rows:
            said = store.turn(row["parent_message_hash"], row["tip_message_hash"])
            moment = _moment(row["datetime_utc"]) or _moment(thread["datetime_utc"]) or _EPOCH
            parent = next((by_tip[tip] for tip in said.before if tip in by_tip), None)
            if parent is None and turns and not by_tip:
                parent = next(reversed(turns))
            elif parent is None:
                for number, (prompt, answer) in enumerate(said.history):
                    # What the turn was given as history belongs to no turn of this thread.
                    earlier = moment - timedelta(milliseconds=len(said.history) - number)
                    made = stable_id(earlier, ORIGIN, row["id"], str(number))
                    turns[made] = TurnRecord(
                        made, parent, moment, prompt, answer, system=said.system, finish_reason=FinishReason.STOP
                    )
                    parent = made
            turn = replace(
                _answered(row, parent, said.prompt, said.text, moment), system=said.system, reasoning=said.reasoning
            )
            turns[turn.id] = turn
            if row["tip_message_hash"]:
                by_tip[row["tip_message_hash"]] = turn.id
        if turns:
            yield _conversation(thread["id"], thread["name"], turns, _moment(thread["datetime_utc"]))


def _responses(database: sqlite3.Connection, tables: set[str], newer: set[str]) -> Iterator[ConversationRecord]:
    names = {row["id"]: row["name"] for row in database.execute("select id, name from conversations")}
    loose = "id not in (select id from turns)" if "turns" in tables else "true"
    for row in database.execute(
        f"select coalesce(conversation_id, '') as conversation, id from responses where {loose} "
        "group by coalesce(conversation_id, id) order by min(id)"
    ).fetchall():
        identity = row["conversation"] or row["id"]
        if _id(identity) in newer:
            continue
        turns: dict[str, TurnRecord] = {}
        rows = (
            _responses_of(database, row["conversation"], ()) if row["conversation"] else [_single(database, row["id"])]
        )
        for response in rows:
            turn = _response(database, response, next(reversed(turns), None))
            turns[turn.id] = turn
        yield _conversation(identity, names.get(row["conversation"]), turns, None)


def _single(database: sqlite3.Connection, response: str) -> Row:
    found: Row = database.execute("select * from responses where id = ?", (response,)).fetchone()
    return found


def _responses_of(database: sqlite3.Connection, conversation: str, without: Sequence[str]) -> Sequence[Row]:
    rows = database.execute("select * from responses where conversation_id = ? order by id", (conversation,))
    return [row for row in rows if row["id"] not in without]


def _response(database: sqlite3.Connection, row: Row, parent: str | None) -> TurnRecord:
    prompt = "\n".join([*_fragments(database, "prompt", row["id"]), *filter(None, [row["prompt"]])])
    bits = [bit.strip() for bit in (*_fragments(database, "system", row["id"]), row["system"] or "")]
    parts = [prompt, *_attachments(database, row["id"]), *_tool_results(database, row["id"])]
    answer = [row["response"] or "", *_tool_calls(database, row["id"])]
    moment = _moment(row["datetime_utc"]) or _EPOCH
    turn = _answered(row, parent, "\n\n".join(filter(None, parts)), "\n\n".join(filter(None, answer)), moment)
    reasoning = row["reasoning"] if "reasoning" in row.keys() else None  # noqa: SIM118  (a sqlite3.Row)
    return replace(turn, system="\n\n".join(filter(None, bits)) or None, reasoning=reasoning or "")


def _asked(database: sqlite3.Connection, query: str, response: str) -> Sequence[Row]:
    try:
        return database.execute(query, (response,)).fetchall()
    except sqlite3.OperationalError as why:
        if "no such" not in str(why):
            raise
        return ()  # written by an llm that had no such thing yet


def _fragments(database: sqlite3.Connection, kind: str, response: str) -> Iterator[str]:
    query = (
        f"select content from {kind}_fragments join fragments on fragments.id = fragment_id "
        f'where response_id = ? order by "order"'
    )
    yield from (row["content"] for row in _asked(database, query, response))


def _attachments(database: sqlite3.Connection, response: str) -> Iterator[str]:
    query = (
        "select attachments.* from prompt_attachments join attachments on attachments.id = attachment_id "
        'where response_id = ? order by "order"'
    )
    for row in _asked(database, query, response):
        yield attachment(row["type"], row["path"] or row["url"])


def attachment(kind: str | None, place: str | None) -> str:
    """What stands for an attached file, which is not imported."""
    return f"[attached: {' '.join(filter(None, [kind, place])) or 'a file'}]"


def _tool_calls(database: sqlite3.Connection, response: str) -> Iterator[str]:
    for row in _asked(database, "select * from tool_calls where response_id = ? order by id", response):
        yield f"[calls {row['name']}({row['arguments'] or ''})]"


def _tool_results(database: sqlite3.Connection, response: str) -> Iterator[str]:
    for row in _asked(database, "select * from tool_results where response_id = ? order by id", response):
        yield f"[{row['name']} returned: {row['output'] or ''}]"


def _first_logs(database: sqlite3.Connection) -> Iterator[ConversationRecord]:
    chats: dict[int, list[Row]] = {}
    for row in database.execute("select * from logs order by id"):
        chats.setdefault(row["chat_id"] or row["id"], []).append(row)
    for chat, rows in chats.items():
        turns: dict[str, TurnRecord] = {}
        for row in rows:
            moment = _moment(row["datetime_utc"]) or _EPOCH
            numbered = {**row, "id": stable_id(moment, ORIGIN, "logs", str(row["id"]))}
            turn = _answered(numbered, next(reversed(turns), None), row["prompt"] or "", row["response"] or "", moment)
            turns[turn.id] = replace(turn, system=row["system"] or None)
        yield _conversation(f"logs {chat}", None, turns, None)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _id(identity: str) -> str:
    return from_ulid(identity) or stable_id(None, ORIGIN, identity)


def _conversation(
    identity: str, name: str | None, turns: Mapping[str, TurnRecord], begun: datetime | None
) -> ConversationRecord:
    ordered = tuple(turns.values())
    first = begun or min(turn.created_at for turn in ordered)
    last = max(turn.finished_at or turn.created_at for turn in ordered)
    title = name or next(iter(ordered[0].prompt.split("\n")))[:80]
    return ConversationRecord(
        _id(identity), title, min(first, last), last, ordered, ordered[-1].id, f"{ORIGIN}:{identity}"
    )


def _answered(row: Row, parent: str | None, prompt: str, text: str, moment: datetime) -> TurnRecord:
    columns = row.keys()
    seconds = (row["duration_ms"] or 0) / 1000
    tokens = [row[name] if name in columns else None for name in ("input_tokens", "output_tokens")]
    options = _options(row["options_json"])
    return TurnRecord(
        _id(row["id"]),
        parent,
        moment,
        prompt,
        text,
        finished_at=moment + timedelta(seconds=seconds),
        finish_reason=FinishReason.STOP,
        model=ModelInfo(row["model"]) if row["model"] else None,
        params=GenerationParams(**options) if options else None,
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


def _options(text: str | None) -> dict[str, Any]:
    """Those of llm's plugins that have a counterpart here."""
    try:
        given = json.loads(text or "{}")
        return {
            _OPTIONS[name][0]: _OPTIONS[name][1](value)
            for name, value in given.items()
            if name in _OPTIONS and value is not None
        }
    except (ValueError, TypeError, AttributeError, OverflowError):
        return {}


def _moment(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
