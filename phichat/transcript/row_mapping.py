"""Maps turns to rows of the store and back."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from phichat.code_report import CodeReport
from phichat.transcript import codec
from phichat.transcript.database import encode_text
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo, Part, SamplingParams, Timings, Usage

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(time: datetime) -> int:
    """Return microseconds since 1970; a time without a zone counts as UTC."""
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Undo `to_micros`, in UTC."""
    return _EPOCH + micros * _MICROSECOND


def to_rowid(micros: int) -> int:
    """Return the preferred rowid of a turn that began then."""
    return micros // 100_000


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
    created_micros = to_micros(record.created_at)
    rowid = _find_free_rowid(connection, to_rowid(created_micros))
    connection.execute(
        """INSERT INTO turn (n, id, conversation, parent, depth, created_at, writer, copied_from, prompt)
        VALUES (?, ?, ?, ?, 1 + coalesce((SELECT depth FROM turn WHERE n = ?), 0), ?, ?, ?, CAST(? AS TEXT))""",
        (
            rowid,
            record.id,
            conversation,
            parent,
            parent,
            created_micros,
            writer,
            copied_from,
            encode_text(record.prompt),
        ),
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
        (last,) = connection.execute(
            "SELECT max(n) FROM turn WHERE n BETWEEN ? AND ?", (preferred, preferred + width - 1)
        ).fetchone()
        if last is None:
            return preferred
        if last < preferred + width - 1:
            return int(last) + 1
        width *= 8


def update_turn(connection: sqlite3.Connection, rowid: int, record: TurnRecord) -> None:
    """Write all columns after the prompt. Raises sqlite3.Error kinds."""
    usage = record.usage
    values: dict[str, Any] = {
        "finished_at": None if record.finished_at is None else to_micros(record.finished_at),
        "finish_reason": record.finish_reason,
        "model": upsert_model(connection, record.model),
        "params": None if record.params is None else _upsert_shared(connection, codec.dump_json(record.params)),
        "system": None if record.system is None else _upsert_shared(connection, record.system),
        "seed": record.seed,
        "n_ctx": record.n_ctx,
        "dropped_turns": record.dropped_turns,
        "prompt_tokens": usage and usage.prompt_tokens,
        "cached_tokens": usage and usage.cached_tokens,
        "completion_tokens": usage and usage.completion_tokens,
        "warnings": len(record.code.warnings) if record.code else 0,
        "timings": None if record.timings is None else codec.dump_json(record.timings),
        "code": None if record.code is None else codec.dump_json(record.code),
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


def _upsert_shared(connection: sqlite3.Connection, value: str) -> int:
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
    rows = [dict(zip(names, values, strict=True)) for values in cursor]
    seen: dict[tuple[type, str], Any] = {}

    def decode_shared(kind: type, text: str | None) -> Any:
        """Decode once what most turns of a conversation share."""
        if text is None:
            return None
        if (kind, text) not in seen:
            seen[kind, text] = codec.load_json(kind, text)
        return seen[kind, text]

    return tuple(
        _to_record(
            row,
            partial_text(connection, row["n"]) if row["finish_reason"] is None else ("", ""),
            model=decode_shared(ModelInfo, row["info"]),
            params=decode_shared(SamplingParams, row["params_json"]),
        )
        for row in rows
    )


def _to_record(
    row: Mapping[str, Any], partial: tuple[str, str], *, model: ModelInfo | None, params: SamplingParams | None
) -> TurnRecord:
    tokens = (row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
    return TurnRecord(
        id=row["id"],
        parent=row["parent_id"],
        created_at=from_micros(row["created_at"]),
        prompt=row["prompt"],
        text=row["text"] + partial[0],
        reasoning=row["reasoning"] + partial[1],
        system=row["system_text"],
        finished_at=None if row["finished_at"] is None else from_micros(row["finished_at"]),
        finish_reason=None if row["finish_reason"] is None else FinishReason(row["finish_reason"]),
        error=row["error"],
        model=model,
        params=params,
        seed=row["seed"],
        usage=None if tokens[0] is None else Usage(*tokens),
        timings=None if row["timings"] is None else codec.load_json(Timings, row["timings"]),
        n_ctx=row["n_ctx"],
        dropped_turns=row["dropped_turns"],
        code=None if row["code"] is None else codec.load_json(CodeReport, row["code"]),
        live=row["finish_reason"] is None and is_writer_alive(row["writer"], row["created_at"]),
        # A store of 0.1 that cannot be written has no such column.
        prompt_parts=codec.load_json(tuple[Part, ...], row.get("prompt_parts") or "[]"),
    )


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
