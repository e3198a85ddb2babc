"""The store of conversations: one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from phichat.errors import ConversationNotFound, TranscriptError
from phichat.transcript import codec, search
from phichat.transcript.database import BUSY_TIMEOUT_S, Database, encode_text
from phichat.transcript.deletion import delete_turns, purge_deleted
from phichat.transcript.ids import new_id
from phichat.transcript.migrations import MIGRATIONS, Migration
from phichat.transcript.records import ConversationRecord, ConversationSummary, ModelStats, StoreStats, TurnRecord
from phichat.transcript.row_mapping import from_micros, insert_turn, read_turns
from phichat.transcript.turn_writer import insert_conversation
from phichat.types import ModelInfo

_MAX_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class TranscriptStore:
    """Reads and writes conversations; thread-safe. All methods raise TranscriptError, and those that take the
    full id of a conversation (from `find_id`) ConversationNotFound where it does not exist."""

    database: Database

    @classmethod
    def open_file(
        cls, path: Path, migrations: Sequence[Migration] = MIGRATIONS, *, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> TranscriptStore:
        """Open the store in this file, creating it where it does not exist.

        busy_timeout_s: how long to wait for other processes that write. Raises TranscriptError where the file is
        damaged, cannot be written, or was written by a newer phichat.
        """
        return cls(Database(path, migrations, busy_timeout_s))

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def find_id(self, prefix: str) -> str:
        """Return the id that begins with `prefix`. Raises ConversationNotFound for none, or several."""
        prefix = prefix.strip().lower()
        with self.database.read_transaction() as connection:
            rows = connection.execute(
                """SELECT id FROM conversation WHERE id >= CAST(:first AS TEXT) AND id < CAST(:end AS TEXT)
                AND NOT hidden ORDER BY id = CAST(:first AS TEXT) DESC, id DESC LIMIT :limit""",
                {"first": encode_text(prefix), "end": encode_text(prefix) + b"\xff", "limit": _MAX_CANDIDATES + 1},
            ).fetchall()
        ids = tuple(str(id_) for (id_,) in rows)
        if not ids or not prefix:
            raise _not_found_error(prefix)
        if len(ids) > 1 and ids[0] != prefix:
            candidates, more = ids[:_MAX_CANDIDATES], " and more" if len(ids) > _MAX_CANDIDATES else ""
            next_step = f"Type more of the id: {', '.join(candidates)}{more}"
            raise ConversationNotFound(f"Several conversations begin with {prefix!r}", next_step, candidates=candidates)
        return ids[0]

    def latest_id(self) -> str | None:
        """Return the id of the conversation with the newest turn, None where there are none."""
        summaries = self.list_conversations(1)
        return summaries[0].id if summaries else None

    def list_conversations(
        self, limit: int | None = None, filters: search.SearchFilters | None = None
    ) -> Sequence[ConversationSummary]:
        """Return the conversations, the newest first. limit: None for all."""
        where, values = search.list_conditions(filters or search.SearchFilters())
        with self.database.read_transaction() as connection:
            return [
                ConversationSummary(id_, title, model or "", from_micros(created), from_micros(updated), turns)
                for id_, title, model, created, updated, turns in connection.execute(
                    f"""SELECT conversation.id, title, model.name, conversation.created_at, updated_at,
                        (SELECT count(*) FROM turn WHERE turn.conversation = conversation.n)
                    FROM conversation LEFT JOIN turn ON turn.n = head LEFT JOIN model ON model.n = turn.model
                    WHERE hidden = 0 {where} ORDER BY updated_at DESC, conversation.n DESC LIMIT :limit""",
                    {**values, "limit": -1 if limit is None else limit},
                )
            ]

    def get_conversation(self, id_: str) -> ConversationRecord:
        """Return a conversation with all its turns."""
        with self.database.read_transaction() as connection:
            row = connection.execute(
                """SELECT conversation.n, title, conversation.created_at, updated_at, origin, turn.id
                FROM conversation LEFT JOIN turn ON turn.n = head WHERE conversation.id = ?""",
                (id_,),
            ).fetchone()
            if row is None:
                raise _not_found_error(id_)
            try:
                turns = read_turns(connection, row[0])
            except ValueError as error:
                message = f"The conversation {id_} is damaged ({error})"
                raise TranscriptError(message, "Restore a backup if you have one") from error
        _, title, created, updated, origin, head = row
        return ConversationRecord(id_, title, from_micros(created), from_micros(updated), turns, head, origin or "")

    def get_model_path(self, model: ModelInfo) -> str:
        """Return where the file of a model was when it last answered; "" where that is not known."""
        with self.database.read_transaction() as connection:
            row = connection.execute("SELECT path FROM model WHERE info = ?", (codec.dump_json(model),)).fetchone()
        return str(row[0]) if row else ""

    def add_conversation(self, record: ConversationRecord) -> bool:
        """Save a whole conversation; return False where its id or its origin exists already.

        Raises TranscriptError also where its turns are not a tree.
        """
        with self.database.write_transaction() as connection:
            existing = connection.execute(
                "SELECT 1 FROM conversation WHERE id = ? OR origin = ?", (record.id, record.origin or None)
            ).fetchone()
            if not existing:
                _insert_with_turns(connection, record, {})
        return not existing

    def fork_conversation(self, id_: str, turn_count: int) -> str:
        """Copy the first turns of the shown branch into a new conversation, and return its id."""
        source = self.get_conversation(id_)
        branch = source.get_branch()
        if not 1 <= turn_count <= len(branch):
            next_step = f"Choose 1 to {len(branch)}" if branch else "Ask something first"
            raise TranscriptError(f"The conversation has no turn {turn_count}", next_step)
        now, turns = datetime.now(UTC), branch[:turn_count]
        record = ConversationRecord(new_id(now), source.title, now, now, turns, turns[-1].id)
        with self.database.write_transaction() as connection:
            sources = connection.execute(
                """SELECT turn.id, coalesce(copied_from, turn.n) FROM turn
                JOIN conversation ON conversation.n = conversation WHERE conversation.id = ?""",
                (id_,),
            ).fetchall()
            _insert_with_turns(connection, record, dict(sources))
        return record.id

    def rename_conversation(self, id_: str, title: str) -> None:
        """Change the title of a conversation."""
        self._update_conversation(id_, "title = CAST(? AS TEXT)", encode_text(title))

    def set_head(self, id_: str, turn: str) -> None:
        """Make a turn the end of the branch that is shown."""
        with self.database.write_transaction() as connection:
            changed = connection.execute(
                """UPDATE conversation SET head = turn.n FROM turn
                WHERE turn.conversation = conversation.n AND turn.id = ? AND conversation.id = ?""",
                (turn, id_),
            )
            if not changed.rowcount:
                raise ConversationNotFound(f"The conversation {id_} has no turn {turn}", "Choose another turn")

    def soft_delete(self, id_: str) -> None:
        """Hide a conversation until `restore` or `purge_soft_deleted`."""
        self._update_conversation(id_, "hidden = ?", 1)

    def restore(self, id_: str) -> None:
        """Undo `soft_delete`."""
        self._update_conversation(id_, "hidden = ?", 0)

    def purge_soft_deleted(self) -> None:
        """Delete the hidden conversations for good."""
        with self.database.read_transaction() as connection:
            hidden = connection.execute("SELECT id FROM conversation WHERE hidden").fetchall()
        if hidden:
            self.delete_conversations([id_ for (id_,) in hidden])

    def delete_conversations(self, ids: Sequence[str]) -> bool:
        """Delete conversations so that none of their text can be read in the file.

        Return False where other processes still use the write-ahead log: its traces are removed when they end.
        """
        with self.database.write_transaction() as connection:
            for id_ in ids:
                query = "SELECT n FROM turn WHERE conversation = (SELECT n FROM conversation WHERE id = ?)"
                delete_turns(connection, [row for (row,) in connection.execute(query, (id_,))])
                if not connection.execute("DELETE FROM conversation WHERE id = ?", (id_,)).rowcount:
                    raise _not_found_error(id_)
        return purge_deleted(self.database)

    def delete_turn(self, id_: str, turn: str) -> bool:
        """Delete a turn and all that follow it; the head moves before them. Return as `delete_conversations`."""
        with self.database.write_transaction() as connection:
            cursor = connection.execute(
                """WITH RECURSIVE leaving (n) AS (
                    SELECT turn.n FROM turn JOIN conversation ON conversation.n = conversation
                    WHERE conversation.id = ? AND turn.id = ?
                    UNION ALL SELECT turn.n FROM turn JOIN leaving ON turn.parent = leaving.n)
                SELECT n FROM leaving""",
                (id_, turn),
            )
            if not (row_ids := [row for (row,) in cursor]):
                raise _not_found_error(f"{id_} with a turn {turn}")
            connection.execute(
                f"""UPDATE conversation SET head = (SELECT parent FROM turn WHERE n = ?)
                WHERE id = ? AND head IN ({", ".join("?" * len(row_ids))})""",
                (row_ids[0], id_, *row_ids),
            )
            delete_turns(connection, row_ids)
        return purge_deleted(self.database)

    def search_turns(
        self, query: str, filters: search.SearchFilters, limit: int, *, prefix_last_word: bool = False
    ) -> search.SearchResults:
        """Search prompts and answers as people type words. prefix_last_word: it may be unfinished."""
        return search.search_turns(self.database, query, filters, limit, prefix_last_word=prefix_last_word)

    def get_stats(self) -> StoreStats:
        """Return the size of the store, including hidden conversations."""
        with self.database.read_transaction() as connection:
            (conversations,) = connection.execute("SELECT count(*) FROM conversation").fetchone()
            (cut_off,) = connection.execute("SELECT count(*) FROM turn WHERE finish_reason IS NULL").fetchone()
            models = connection.execute(
                """SELECT coalesce(name, ''), count(*), total(prompt_tokens), total(completion_tokens)
                FROM turn LEFT JOIN model ON model.n = model GROUP BY 1 ORDER BY 2 DESC"""
            ).fetchall()
        by_model = tuple(ModelStats(name, turns, int(prompt), int(reply)) for name, turns, prompt, reply in models)
        path, turns = self.database.path, sum(one.turns for one in by_model)
        return StoreStats(str(path), path.stat().st_size, conversations, turns, cut_off, by_model)

    def write_backup(self, target: Path) -> None:
        """Write a consistent copy of the store; an existing file of that name is replaced."""
        self.database.copy_to_file(target)

    def index_pending_turns(self) -> None:
        """Index new turns now instead of at the next search: worth it after an import."""
        search.index_pending_turns(self.database)

    def _update_conversation(self, id_: str, assignment: str, value: object) -> None:
        with self.database.write_transaction() as connection:
            if not connection.execute(f"UPDATE conversation SET {assignment} WHERE id = ?", (value, id_)).rowcount:
                raise _not_found_error(id_)


def _not_found_error(id_: str) -> ConversationNotFound:
    return ConversationNotFound(f"There is no conversation {id_!r}", "List them with `phichat logs`")


def _insert_with_turns(connection: sqlite3.Connection, record: ConversationRecord, source_rows: dict[str, int]) -> None:
    """source_rows: the row that a turn is a copy of, by turn id."""
    conversation = insert_conversation(connection, record)
    rows: dict[str | None, int | None] = {None: None}
    for turn in _sort_parents_first(record.turns):
        rows[turn.id] = insert_turn(
            connection, conversation, turn, parent=rows[turn.parent], copied_from=source_rows.get(turn.id)
        )
    if record.head not in rows:
        raise _invalid_tree(f"its head {record.head!r} is not one of its turns")
    connection.execute("UPDATE conversation SET head = ? WHERE n = ?", (rows[record.head], conversation))


def _sort_parents_first(turns: Sequence[TurnRecord]) -> Iterator[TurnRecord]:
    children: dict[str | None, list[TurnRecord]] = {}
    for turn in reversed(turns):
        children.setdefault(turn.parent, []).append(turn)
    if len({turn.id for turn in turns}) < len(turns):
        raise _invalid_tree("two of its turns have the same id")
    stack = children.pop(None, [])
    while stack:
        yield (turn := stack.pop())
        stack += children.pop(turn.id, [])
    if children:
        raise _invalid_tree("some of its turns follow a turn that does not exist")


def _invalid_tree(reason: str) -> TranscriptError:
    return TranscriptError(f"The conversation is incomplete: {reason}", "Export it again from its source")
