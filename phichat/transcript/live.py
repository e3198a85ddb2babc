"""A turn as it is written: its prompt first, then what is streamed, then the whole."""

from __future__ import annotations

import os
import sqlite3
from datetime import UTC, datetime

from phichat.errors import TranscriptError
from phichat.messages import ModelInfo
from phichat.terminal import clean_line
from phichat.transcript.database import Database, as_bytes
from phichat.transcript.records import TurnRecord
from phichat.transcript.rows import insert_turn, model_row, stamp, update_turn

_TITLE = 80


def title_of(prompt: str) -> str:
    """The first line that says something, cut to 80 characters."""
    lines = (clean_line(line) for line in prompt[:10_000].splitlines())
    title = next((line for line in lines if line), "")
    return title if len(title) <= _TITLE else title[: _TITLE - 1].rstrip() + "…"


def begin_conversation(connection: sqlite3.Connection, id_: str, title: str, began: datetime) -> None:
    """Make an empty conversation. Raises sqlite3.Error kinds."""
    connection.execute(
        "INSERT INTO conversation (id, title, created_at, updated_at) VALUES (?, CAST(? AS TEXT), ?, ?)",
        (id_, as_bytes(title), stamp(began), stamp(began)),
    )


def begin_turn(
    connection: sqlite3.Connection, conversation: str, record: TurnRecord, *, becomes_head: bool = True
) -> int:
    """Write the prompt, make it the head and return its row.

    Raises TranscriptError when the conversation or the turn before it is not there, and sqlite3.Error kinds.
    """
    place = connection.execute(
        """SELECT conversation.n, turn.n FROM conversation
        LEFT JOIN turn ON turn.conversation = conversation.n AND turn.id = ? WHERE conversation.id = ?""",
        (record.parent, conversation),
    ).fetchone()
    if place is None or (place[1] is None and record.parent is not None):
        raise _removed()
    rowid = insert_turn(connection, place[0], record, parent=place[1], writer=os.getpid())
    if becomes_head:
        connection.execute(
            "UPDATE conversation SET head = ?, updated_at = ? WHERE n = ?", (rowid, stamp(record.created_at), place[0])
        )
    return rowid


def append(database: Database, turn: int, text: str, reasoning: str, *, durably: bool) -> None:
    """Write what has been streamed since the last time; durably where a power cut shall not take it.

    Raises TranscriptError.
    """
    with database.writing() if durably else database.writing_lightly() as connection:
        written = connection.execute(
            """INSERT INTO piece (turn, text, reasoning)
            SELECT n, CAST(? AS TEXT), CAST(? AS TEXT) FROM turn WHERE n = ?""",
            (as_bytes(text), as_bytes(reasoning), turn),
        )
        if not written.rowcount:
            raise _removed()


def name_model(database: Database, turn: int, model: ModelInfo, path: str) -> None:
    """Write what answers, before it has. Raises TranscriptError."""
    with database.writing() as connection:
        connection.execute("UPDATE turn SET model = ? WHERE n = ?", (model_row(connection, model, path), turn))


def finish_turn(connection: sqlite3.Connection, turn: int, record: TurnRecord) -> None:
    """Write the whole reply in place of its pieces. Raises TranscriptError when the turn is gone, and
    sqlite3.Error kinds."""
    update_turn(connection, turn, record)
    connection.execute("DELETE FROM piece WHERE turn = ?", (turn,))
    changed = connection.execute(
        "UPDATE conversation SET updated_at = ? WHERE n = (SELECT conversation FROM turn WHERE n = ?)",
        (stamp(record.finished_at or datetime.now(UTC)), turn),
    )
    if not changed.rowcount:
        raise _removed()
    connection.execute("UPDATE turn SET writer = NULL WHERE n = ?", (turn,))


def _removed() -> TranscriptError:
    return TranscriptError("The conversation was removed meanwhile", "begin another one")
