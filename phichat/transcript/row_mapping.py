"""Maps turns to rows of the store and back."""

import sqlite3
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from phichat.code_report import CodeReport
from phichat.transcript import codec
from phichat.transcript.database import encode_text
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo, Part, SamplingParams, Timings, Usage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NUMBER_COLUMNS = ("seed", "n_ctx", "dropped_turns")
_TOKEN_COLUMNS = ("prompt_tokens", "cached_tokens", "completion_tokens")


def to_micros(time: datetime) -> int:
    """Return microseconds since 1970; a time without a zone counts as UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Undo `to_micros`, in UTC."""
    return _EPOCH + micros * _MICROSECOND


def to_rowid(time: datetime) -> int:
    """Return the preferred rowid of a turn that began at this time."""
    return to_micros(time) // 100_000


def insert_turn(
    connection: sqlite3.Connection,
    conversation: int,
    record: TurnRecord,
    *,
    parent: int | None,
    writer: int | None = None,
    copied_from: int | None = None,
) -> int:
    """Write a turn and return its rowid. Raises sqlite3.Error kinds."""
    rowid = _find_free_rowid(connection, to_rowid(record.created_at))
    values = {"n": rowid, "id": record.id, "conversation": conversation, "parent": parent, "writer": writer}
    values |= {"created_at": to_micros(record.created_at), "copied_from": copied_from}
    connection.execute(
        """INSERT INTO turn (n, id, conversation, parent, depth, created_at, writer, copied_from, prompt)
        VALUES (:n, :id, :conversation, :parent, 1 + coalesce((SELECT depth FROM turn WHERE n = :parent), 0),
            :created_at, :writer, :copied_from, CAST(:prompt AS TEXT))""",
        {**values, "prompt": encode_text(record.prompt)},
    )
    if record.prompt_parts:
        parts = codec.dump_json(record.prompt_parts)
        connection.execute("UPDATE turn SET prompt_parts = ? WHERE n = ?", (parts, rowid))
    if copied_from is None:
        connection.execute("INSERT INTO pending (turn) VALUES (?)", (rowid,))
    update_turn(connection, rowid, record)
    return rowid


def _find_free_rowid(connection: sqlite3.Connection, preferred: int) -> int:
    """Return the preferred rowid or a free one soon after; an import may have many turns of one moment."""
    width = 1
    while True:
        limits = (preferred, preferred + width - 1)
        (last,) = connection.execute("SELECT max(n) FROM turn WHERE n BETWEEN ? AND ?", limits).fetchone()
        if last is None or last < limits[1]:
            return preferred if last is None else int(last) + 1
        width *= 8


def update_turn(connection: sqlite3.Connection, rowid: int, record: TurnRecord) -> None:
    """Write all columns after the prompt. Raises sqlite3.Error kinds."""
    usage = record.usage
    values: dict[str, Any] = {
        "finished_at": None if record.finished_at is None else to_micros(record.finished_at),
        "model": upsert_model(connection, record.model),
        "params": _upsert_shared(connection, codec.dump_json(record.params) if record.params else None),
        "system": _upsert_shared(connection, record.system),
        **{name: getattr(record, name) for name in ("finish_reason", *_NUMBER_COLUMNS)},
        **{name: usage and getattr(usage, name) for name in _TOKEN_COLUMNS},
        "warnings": len(record.code.warnings) if record.code else 0,
        "timings": record.timings and codec.dump_json(record.timings),
        "code": record.code and codec.dump_json(record.code),
    }
    texts = {name: encode_text(getattr(record, name)) for name in ("error", "text", "reasoning")}
    columns = [f"{name} = :{name}" for name in values] + [f"{name} = CAST(:{name} AS TEXT)" for name in texts]
    connection.execute(f"UPDATE turn SET {', '.join(columns)} WHERE n = :n", {**values, **texts, "n": rowid})


def upsert_model(connection: sqlite3.Connection, model: ModelInfo | None, path: str = "") -> int | None:
    """Return the row of a model, inserting it where needed. path: of its file, "" where that is not known."""
    if model is None:
        return None
    info = codec.dump_json(model)
    connection.execute(
        """INSERT INTO model (name, info, path) VALUES (:name, :info, :path)
        ON CONFLICT (info) DO UPDATE SET path = :path WHERE :path <> '' AND path <> :path""",
        {"name": model.name, "info": info, "path": path},
    )
    (rowid,) = connection.execute("SELECT n FROM model WHERE info = ?", (info,)).fetchone()
    return int(rowid)


def _upsert_shared(connection: sqlite3.Connection, value: str | None) -> int | None:
    if value is None:
        return None
    stored = encode_text(value)
    connection.execute("INSERT INTO shared (value) VALUES (CAST(? AS TEXT)) ON CONFLICT DO NOTHING", (stored,))
    (rowid,) = connection.execute("SELECT n FROM shared WHERE value = CAST(? AS TEXT)", (stored,)).fetchone()
    return int(rowid)


def read_turns(connection: sqlite3.Connection, conversation: int) -> tuple[TurnRecord, ...]:
    """Return all turns of a conversation by id. Raises sqlite3.Error kinds, and ValueError for a damaged row."""
    cursor = connection.execute(
        """SELECT turn.*, above.id AS parent_id, info, params.value AS params_json, system.value AS system_text
        FROM turn LEFT JOIN turn AS above ON above.n = turn.parent LEFT JOIN model ON model.n = turn.model
        LEFT JOIN shared AS params ON params.n = turn.params LEFT JOIN shared AS system ON system.n = turn.system
        WHERE turn.conversation = ? ORDER BY turn.id""",
        (conversation,),
    )
    names = [column[0] for column in cursor.description]
    # Most turns of a conversation share these, so they are decoded once.
    decode_shared = cache(_decode)
    rows = [dict(zip(names, values, strict=True)) for values in cursor]
    return tuple(_to_record(connection, row, decode_shared) for row in rows)


def _to_record(connection: sqlite3.Connection, row: Mapping[str, Any], decode_shared: Callable[..., Any]) -> TurnRecord:
    is_open = row["finish_reason"] is None
    text, reasoning = partial_text(connection, row["n"]) if is_open else ("", "")
    return TurnRecord(
        parent=row["parent_id"],
        created_at=from_micros(row["created_at"]),
        text=row["text"] + text,
        reasoning=row["reasoning"] + reasoning,
        system=row["system_text"],
        finished_at=None if row["finished_at"] is None else from_micros(row["finished_at"]),
        finish_reason=None if is_open else FinishReason(row["finish_reason"]),
        model=decode_shared(ModelInfo, row["info"]),
        params=decode_shared(SamplingParams, row["params_json"]),
        usage=None if row["prompt_tokens"] is None else Usage(*(row[name] for name in _TOKEN_COLUMNS)),
        timings=_decode(Timings, row["timings"]),
        code=_decode(CodeReport, row["code"]),
        live=is_open and is_writer_alive(row["writer"], row["created_at"]),
        # A store of 0.1 that cannot be written has no such column.
        prompt_parts=_decode(tuple[Part, ...], row.get("prompt_parts")) or (),
        **{name: row[name] for name in ("id", "prompt", "error", *_NUMBER_COLUMNS)},
    )


def _decode(kind: Any, text: str | None) -> Any:
    return None if text is None else codec.load_json(kind, text)


def partial_text(connection: sqlite3.Connection, turn: int) -> tuple[str, str]:
    """Return the text and the reasoning of an unfinished reply so far."""
    parts = connection.execute("SELECT text, reasoning FROM piece WHERE turn = ? ORDER BY n", (turn,)).fetchall()
    return "".join(text for text, _ in parts), "".join(reasoning for _, reasoning in parts)


def is_writer_alive(writer: int | None, created_micros: int) -> bool:
    """Return whether the process that began the turn still runs; its PID may have been reused."""
    if writer is None:
        return False
    import psutil

    try:
        process = psutil.Process(writer)
        # The clock may have been adjusted by a little; no process starts a turn that early.
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < created_micros / 1e6 + 2
    except psutil.Error:
        return False
