"""The logs of `llm` (https://llm.datasette.io): its SQLite file, read and never written.

llm has had three schemas, and an old file that was updated has all of them: one table `logs`
(until 0.5), `conversations` and `responses` (until 0.32), and since then `threads` and `turns` over a tree of
`messages` made of `parts`. A conversation that is in more than one of them is taken from the newest.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from phichat.errors import TranscriptFileError
from phichat.transcript.ids import id_from_ulid, stable_id
from phichat.transcript.importers.llm_messages import MessageStore, format_attachment
from phichat.transcript.importers.openai import parse_time, shorten_to_title
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage

_ORIGIN, _EPOCH = "llm", datetime(1970, 1, 1, tzinfo=UTC)
Row = Mapping[str, Any]


def read_llm_log(path: Path) -> Iterator[ConversationRecord]:
    """Yield all conversations, the oldest first. Raises TranscriptFileError."""
    try:
        with closing(_open_database(path)) as database:
            tables = {row["name"] for row in database.execute("select name from sqlite_master")}
            if not tables & {"turns", "responses", "logs"}:
                raise TranscriptFileError(f"{path} isn't a log of llm", "Choose the file that `llm logs path` prints")
            imported_ids: set[str] = set()
            for conversation in _convert_threads(database, "responses" in tables) if "turns" in tables else ():
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
    mode = "immutable=1" if uses_wal and not (wal.exists() and wal.stat().st_size) else "mode=ro"
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None)
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
            in_new_schema = {row["id"] for row in rows}
            query = "select * from responses where conversation_id = ? order by id"
            for response in database.execute(query, (thread["id"],)):
                if response["id"] not in in_new_schema:
                    _add_response(turns, database, response)
        for row in rows:
            imported = store.read_turn(row["parent_message_hash"], row["tip_message_hash"])
            created_at = parse_time(row["datetime_utc"]) or parse_time(thread["datetime_utc"]) or _EPOCH
            parent = next((turn_by_tip[tip] for tip in imported.context_hashes if tip in turn_by_tip), None)
            if parent is None and turns and not turn_by_tip:
                parent = next(reversed(turns))
            elif parent is None:
                # The history that the turn was given belongs to no turn of this thread.
                for index, (prompt, answer) in enumerate(imported.history):
                    history_time = created_at - timedelta(milliseconds=len(imported.history) - index)
                    history_id = stable_id(history_time, _ORIGIN, row["id"], str(index))
                    turn = TurnRecord(history_id, parent, created_at, prompt, answer, system=imported.system)
                    turns[history_id] = replace(turn, finish_reason=FinishReason.STOP)
                    parent = history_id
            texts = (imported.prompt, imported.text, imported.reasoning, imported.system)
            turn = _make_turn(row, parent, created_at, *texts)
            turns[turn.id] = turn
            if row["tip_message_hash"]:
                turn_by_tip[row["tip_message_hash"]] = turn.id
        if turns:
            yield _make_conversation(thread["id"], thread["name"], turns, parse_time(thread["datetime_utc"]))


def _convert_responses(
    database: sqlite3.Connection, tables: set[str], imported_ids: set[str]
) -> Iterator[ConversationRecord]:
    names = {row["id"]: row["name"] for row in database.execute("select id, name from conversations")}
    condition = "id not in (select id from turns)" if "turns" in tables else "true"
    for row in database.execute(
        f"select coalesce(conversation_id, '') as conversation, id from responses where {condition} "
        "group by coalesce(conversation_id, id) order by min(id)"
    ).fetchall():
        column, source_id = ("conversation_id", row["conversation"]) if row["conversation"] else ("id", row["id"])
        if _convert_id(source_id) in imported_ids:
            continue
        turns: dict[str, TurnRecord] = {}
        for response in database.execute(f"select * from responses where {column} = ? order by id", (source_id,)):
            _add_response(turns, database, response)
        yield _make_conversation(source_id, names.get(row["conversation"]), turns)


def _add_response(turns: dict[str, TurnRecord], database: sqlite3.Connection, row: Row) -> None:
    def fetch(query: str) -> Sequence[Row]:
        try:
            return database.execute(query, (row["id"],)).fetchall()
        except sqlite3.OperationalError as error:
            if "no such" not in str(error):
                raise
            return ()  # written by an llm without that table

    def fetch_fragments(kind: str) -> list[str]:
        query = f"select content from {kind}_fragments join fragments on fragments.id = fragment_id"
        return [fragment["content"] for fragment in fetch(f'{query} where response_id = ? order by "order"')]

    attachments = fetch(
        "select attachments.* from prompt_attachments join attachments on attachments.id = attachment_id "
        'where response_id = ? order by "order"'
    )
    results = fetch("select * from tool_results where response_id = ? order by id")
    calls = fetch("select * from tool_calls where response_id = ? order by id")
    prompt = [
        "\n".join([*fetch_fragments("prompt"), *filter(None, [row["prompt"]])]),
        *(format_attachment(each["type"], each["path"] or each["url"]) for each in attachments),
        *(f"[{each['name']} returned: {each['output'] or ''}]" for each in results),
    ]
    answer = [row["response"] or "", *(f"[calls {each['name']}({each['arguments'] or ''})]" for each in calls)]
    system = [text.strip() for text in (*fetch_fragments("system"), row["system"] or "")]
    reasoning = [row["reasoning"] if "reasoning" in row.keys() else None]  # noqa: SIM118  (a sqlite3.Row)
    texts = ["\n\n".join(filter(None, parts)) for parts in (prompt, answer, reasoning, system)]
    created_at, parent = parse_time(row["datetime_utc"]) or _EPOCH, next(reversed(turns), None)
    turn = _make_turn(row, parent, created_at, *texts)
    turns[turn.id] = turn


def _convert_legacy_logs(database: sqlite3.Connection) -> Iterator[ConversationRecord]:
    chats: dict[int, list[Row]] = {}
    for row in database.execute("select * from logs order by id"):
        chats.setdefault(row["chat_id"] or row["id"], []).append(row)
    for chat, rows in chats.items():
        turns: dict[str, TurnRecord] = {}
        for row in rows:
            created_at = parse_time(row["datetime_utc"]) or _EPOCH
            numbered = {**row, "id": stable_id(created_at, _ORIGIN, "logs", str(row["id"]))}
            texts, parent = (row["prompt"], row["response"], None, row["system"]), next(reversed(turns), None)
            turn = _make_turn(numbered, parent, created_at, *texts)
            turns[turn.id] = turn
        yield _make_conversation(f"logs {chat}", None, turns)


def _convert_id(source_id: str) -> str:
    return id_from_ulid(source_id) or stable_id(None, _ORIGIN, source_id)


def _make_conversation(
    source_id: str, name: str | None, turns: Mapping[str, TurnRecord], started_at: datetime | None = None
) -> ConversationRecord:
    ordered = tuple(turns.values())
    updated_at = max(turn.finished_at or turn.created_at for turn in ordered)
    created_at = min(started_at or min(turn.created_at for turn in ordered), updated_at)
    title, head = name or shorten_to_title(ordered[0].prompt), ordered[-1].id
    origin = f"{_ORIGIN}:{source_id}"
    return ConversationRecord(_convert_id(source_id), title, created_at, updated_at, ordered, head, origin)


def _make_turn(row: Row, parent: str | None, created_at: datetime, *texts: str | None) -> TurnRecord:
    """texts: prompt, answer, reasoning and system prompt."""
    prompt, text, reasoning, system = texts
    seconds = (row["duration_ms"] or 0) / 1000
    tokens = [row[name] if name in row.keys() else None for name in ("input_tokens", "output_tokens")]  # noqa: SIM118
    options = _convert_options(row["options_json"])
    return TurnRecord(
        _convert_id(row["id"]),
        parent,
        created_at,
        prompt or "",
        text or "",
        reasoning or "",
        system or None,
        finished_at=created_at + timedelta(seconds=seconds),
        finish_reason=FinishReason.STOP,
        model=ModelInfo(row["model"]) if row["model"] else None,
        params=SamplingParams(**options) if options else None,
        seed=options.get("seed"),
        usage=Usage(tokens[0] or 0, 0, tokens[1] or 0) if any(tokens) else None,
        timings=Timings(generation_s=seconds) if seconds else None,
    )


_OPTIONS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    **{name: (name, float) for name in ("temperature", "top_p", "min_p", "repeat_penalty")},
    **{name: (name, int) for name in ("top_k", "seed", "max_tokens")},
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
