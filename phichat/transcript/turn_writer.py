"""Writes one turn: its prompt first, then streamed pieces, then the whole reply."""

import os
import sqlite3
from datetime import UTC, datetime

from phichat.errors import TranscriptError
from phichat.sanitize import sanitize_line
from phichat.transcript.database import Database, encode_text
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.row_mapping import insert_turn, to_micros, update_turn, upsert_model
from phichat.types import ModelInfo

_MAX_TITLE_CHARS = 80


def derive_title(prompt: str) -> str:
    """Return the first line with text, cut to 80 characters."""
    lines = (sanitize_line(line) for line in prompt[:10_000].splitlines())
    title = next((line for line in lines if line), "")
    return title if len(title) <= _MAX_TITLE_CHARS else title[: _MAX_TITLE_CHARS - 1].rstrip() + "…"


def insert_conversation(connection: sqlite3.Connection, record: ConversationRecord) -> int:
    """Insert a conversation without its turns, and return its row. Raises sqlite3.Error kinds."""
    times = to_micros(record.created_at), to_micros(record.updated_at)
    rowid = connection.execute(
        "INSERT INTO conversation (id, title, created_at, updated_at, origin) VALUES (?, CAST(? AS TEXT), ?, ?, ?)",
        (record.id, encode_text(record.title), *times, record.origin or None),
    ).lastrowid
    assert rowid is not None
    return rowid


def start_turn(connection: sqlite3.Connection, conversation: str, record: TurnRecord, *, set_head: bool = True) -> int:
    """Insert a turn with its prompt, make it the head, and return its row.

    Raises TranscriptError where the conversation or the parent does not exist, and sqlite3.Error kinds.
    """
    row = connection.execute(
        """SELECT conversation.n, turn.n FROM conversation
        LEFT JOIN turn ON turn.conversation = conversation.n AND turn.id = ? WHERE conversation.id = ?""",
        (record.parent, conversation),
    ).fetchone()
    if row is None or (row[1] is None and record.parent is not None):
        raise _removed_error()
    rowid = insert_turn(connection, row[0], record, parent=row[1], writer=os.getpid())
    if set_head:
        values = (rowid, to_micros(record.created_at), row[0])
        connection.execute("UPDATE conversation SET head = ?, updated_at = ? WHERE n = ?", values)
    return rowid


def append_text(database: Database, turn: int, text: str, reasoning: str, *, durable: bool) -> None:
    """Write newly streamed text. durable: it has to survive a power cut. Raises TranscriptError."""
    with database.write_transaction() if durable else database.write_transaction_no_fsync() as connection:
        written = connection.execute(
            """INSERT INTO piece (turn, text, reasoning)
            SELECT n, CAST(? AS TEXT), CAST(? AS TEXT) FROM turn WHERE n = ?""",
            (encode_text(text), encode_text(reasoning), turn),
        )
        if not written.rowcount:
            raise _removed_error()


def set_turn_model(database: Database, turn: int, model: ModelInfo, path: str) -> None:
    """Write the model that answers, before the reply is complete. Raises TranscriptError."""
    with database.write_transaction() as connection:
        connection.execute("UPDATE turn SET model = ? WHERE n = ?", (upsert_model(connection, model, path), turn))


def finish_turn(connection: sqlite3.Connection, turn: int, record: TurnRecord) -> None:
    """Replace the streamed pieces by the whole reply.

    Raises TranscriptError where the turn was deleted, and sqlite3.Error kinds.
    """
    update_turn(connection, turn, record)
    connection.execute("DELETE FROM piece WHERE turn = ?", (turn,))
    changed = connection.execute(
        "UPDATE conversation SET updated_at = ? WHERE n = (SELECT conversation FROM turn WHERE n = ?)",
        (to_micros(record.finished_at or datetime.now(UTC)), turn),
    )
    if not changed.rowcount:
        raise _removed_error()
    connection.execute("UPDATE turn SET writer = NULL WHERE n = ?", (turn,))


def _removed_error() -> TranscriptError:
    return TranscriptError("The conversation was deleted in the meantime", "Start a new one")
