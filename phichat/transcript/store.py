"""Where conversations are kept: one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.errors import ConversationNotFound, TranscriptError
from phichat.transcript import codec
from phichat.transcript.database import BUSY_TIMEOUT_S, Database, encode_text
from phichat.transcript.deletion import delete_turns, purge_deleted
from phichat.transcript.ids import new_id
from phichat.transcript.migrations import MIGRATIONS, Migration
from phichat.transcript.records import ConversationRecord, ConversationSummary, ModelStats, StoreStats, TurnRecord
from phichat.transcript.row_mapping import from_micros, insert_turn, read_turns, to_micros
from phichat.types import ModelInfo

if TYPE_CHECKING:
    from phichat.transcript.search import SearchFilters, SearchResults

_MAX_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class TranscriptStore:
    """Reads and keeps conversations, from any thread. Its methods raise TranscriptError, and those that
    take the id of a conversation (in full, from `find`) ConversationNotFound when it is not there."""

    database: Database

    @classmethod
    def open_file(
        cls, path: Path, migrations: Sequence[Migration] = MIGRATIONS, *, busy_timeout_s: float = BUSY_TIMEOUT_S
    ) -> TranscriptStore:
        """The store in this file, made if it is not there.

        patience_s: how long to wait for other processes that write.
        Raises TranscriptError when it is damaged, cannot be written, or a newer phichat has made it.
        """
        return cls(Database(path, migrations, busy_timeout_s))

    def close(self) -> None:
        """Nothing more can be asked of it."""
        self.database.close()

    def find_id(self, prefix: str) -> str:
        """The id that begins with `prefix`. Raises ConversationNotFound when that is none, or several."""
        prefix = prefix.strip().lower()
        with self.database.read_transaction() as connection:
            matching_ids = [
                str(one)
                for (one,) in connection.execute(
                    """SELECT id FROM conversation WHERE id >= CAST(? AS TEXT) AND id < CAST(? AS TEXT) AND NOT hidden
                    ORDER BY id = CAST(? AS TEXT) DESC, id DESC LIMIT ?""",
                    (encode_text(prefix), encode_text(prefix) + b"\xff", encode_text(prefix), _MAX_CANDIDATES + 1),
                )
            ]
        if not matching_ids or not prefix:
            raise ConversationNotFound(f"There is no conversation {prefix!r}", "`phichat logs` lists them")
        if len(matching_ids) > 1 and matching_ids[0] != prefix:
            candidates = tuple(matching_ids[:_MAX_CANDIDATES])
            more = " and more" if len(matching_ids) > _MAX_CANDIDATES else ""
            raise ConversationNotFound(
                f"Several conversations begin with {prefix!r}",
                "give more of the id: " + ", ".join(candidates) + more,
                candidates=candidates,
            )
        return matching_ids[0]

    def latest_id(self) -> str | None:
        """The id of the conversation that was last spoken in."""
        summaries = self.list_conversations(1)
        return summaries[0].id if summaries else None

    def list_conversations(
        self, limit: int | None = None, filters: SearchFilters | None = None
    ) -> Sequence[ConversationSummary]:
        """The newest first. limit: None for all. filters: what to leave out."""
        where, values = "", dict[str, object]()
        if filters:
            from phichat.transcript.search import list_conditions

            where, values = list_conditions(filters)
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
        """A conversation with all its turns."""
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
                raise TranscriptError(
                    f"The conversation {id_} is damaged ({error})", "Put a backup in place if there is one"
                ) from error
        _, title, created, updated, origin, head = row
        return ConversationRecord(id_, title, from_micros(created), from_micros(updated), turns, head, origin or "")

    def get_model_path(self, model: ModelInfo) -> str:
        """Where the file of a model was when it last answered; "" when that is not known."""
        with self.database.read_transaction() as connection:
            row = connection.execute("SELECT path FROM model WHERE info = ?", (codec.dump_json(model),)).fetchone()
        return str(row[0]) if row else ""

    def add_conversation(self, record: ConversationRecord) -> bool:
        """Keep a whole conversation; False when its id or its origin is there already.

        Raises TranscriptError also when its turns make no tree.
        """
        with self.database.write_transaction() as connection:
            existing = connection.execute(
                "SELECT 1 FROM conversation WHERE id = ? OR origin = ?", (record.id, record.origin or None)
            ).fetchone()
            if existing:
                return False
            _insert_conversation(connection, record, {})
            return True

    def fork_conversation(self, id_: str, turn_count: int) -> str:
        """A new conversation that begins like the shown branch of another, with its first `at` turns.

        They are copies: either can be changed or removed without the other.
        """
        source = self.get_conversation(id_)
        branch = source.get_branch()
        if not 1 <= turn_count <= len(branch):
            raise TranscriptError(
                f"The conversation has no turn {turn_count}",
                f"Its turns are 1 to {len(branch)}" if branch else "It is empty",
            )
        now = datetime.now(UTC)
        turns = branch[:turn_count]
        record = replace(
            source, id=new_id(now), created_at=now, updated_at=now, turns=turns, head=turns[-1].id, origin=""
        )
        with self.database.write_transaction() as connection:
            sources = connection.execute(
                """SELECT turn.id, coalesce(copied_from, turn.n) FROM turn
                JOIN conversation ON conversation.n = conversation WHERE conversation.id = ?""",
                (id_,),
            ).fetchall()
            _insert_conversation(connection, record, dict(sources))
        return record.id

    def rename_conversation(self, id_: str, title: str) -> None:
        """Give a conversation another title."""
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
                raise ConversationNotFound(f"There is no turn {turn} in the conversation {id_}", "See `phichat logs`")

    def soft_delete(self, id_: str) -> None:
        """Make a conversation as good as removed, until `unhide` or `remove_hidden`."""
        self._update_conversation(id_, "hidden = ?", 1)

    def restore(self, id_: str) -> None:
        """Take back `hide`."""
        self._update_conversation(id_, "hidden = ?", 0)

    def purge_soft_deleted(self) -> None:
        """Remove what is hidden for good."""
        with self.database.read_transaction() as connection:
            hidden = [str(id_) for (id_,) in connection.execute("SELECT id FROM conversation WHERE hidden")]
        if hidden:
            self.delete_conversations(hidden)

    def delete_conversations(self, ids: Sequence[str]) -> bool:
        """Remove conversations so that nothing of them can be read in the file.

        False when other processes hold on to the write-ahead log: traces in there go when they end.
        """
        with self.database.write_transaction() as connection:
            for id_ in ids:
                rows = connection.execute(
                    """SELECT turn.n FROM turn JOIN conversation ON conversation.n = conversation
                    WHERE conversation.id = ?""",
                    (id_,),
                ).fetchall()
                delete_turns(connection, (row for (row,) in rows))
                if not connection.execute("DELETE FROM conversation WHERE id = ?", (id_,)).rowcount:
                    raise _not_found_error(id_)
        return purge_deleted(self.database)

    def delete_turn(self, id_: str, turn: str) -> bool:
        """Remove a turn and all that follow it; a head among them goes to the turn before. As `remove`."""
        with self.database.write_transaction() as connection:
            rows = connection.execute(
                """WITH RECURSIVE leaving (n) AS (
                    SELECT turn.n FROM turn JOIN conversation ON conversation.n = conversation
                    WHERE conversation.id = ? AND turn.id = ?
                    UNION ALL SELECT turn.n FROM turn JOIN leaving ON turn.parent = leaving.n)
                SELECT n FROM leaving""",
                (id_, turn),
            ).fetchall()
            if not rows:
                raise _not_found_error(f"{id_} with a turn {turn}")
            row_ids = [row for (row,) in rows]
            connection.execute(
                f"""UPDATE conversation SET head = (SELECT parent FROM turn WHERE n = ?)
                WHERE id = ? AND head IN ({", ".join("?" * len(row_ids))})""",
                (row_ids[0], id_, *row_ids),
            )
            delete_turns(connection, row_ids)
        return purge_deleted(self.database)

    def search_turns(
        self, query: str, filters: SearchFilters, limit: int, *, prefix_last_word: bool = False
    ) -> SearchResults:
        """The best hits for whatever people type. as_typed: the last word may be unfinished."""
        from phichat.transcript.search import search_turns

        return search_turns(self.database, query, filters, limit, prefix_last_word=prefix_last_word)

    def get_stats(self) -> StoreStats:
        """How much there is, hidden conversations not counted out: they are still there."""
        with self.database.read_transaction() as connection:
            (conversations,) = connection.execute("SELECT count(*) FROM conversation").fetchone()
            (cut_off,) = connection.execute("SELECT count(*) FROM turn WHERE finish_reason IS NULL").fetchone()
            models = connection.execute(
                """SELECT coalesce(name, ''), count(*), total(prompt_tokens), total(completion_tokens)
                FROM turn LEFT JOIN model ON model.n = model GROUP BY 1 ORDER BY 2 DESC"""
            ).fetchall()
        by_model = tuple(
            ModelStats(name, turns, int(prompt_tokens), int(completion_tokens))
            for name, turns, prompt_tokens, completion_tokens in models
        )
        path = self.database.path
        return StoreStats(
            str(path), path.stat().st_size, conversations, sum(one.turns for one in by_model), cut_off, by_model
        )

    def write_backup(self, target: Path) -> None:
        """Write a copy of the store as it is at one moment; another file of that name is replaced."""
        self.database.copy_to_file(target)

    def index_pending_turns(self) -> None:
        """Do now what the next search would begin with: worth it after many were added."""
        from phichat.transcript.search import index_pending_turns

        index_pending_turns(self.database)

    def _update_conversation(self, id_: str, assignment: str, value: object) -> None:
        with self.database.write_transaction() as connection:
            if not connection.execute(f"UPDATE conversation SET {assignment} WHERE id = ?", (value, id_)).rowcount:
                raise _not_found_error(id_)


def _not_found_error(id_: str) -> ConversationNotFound:
    return ConversationNotFound(f"There is no conversation {id_!r}", "`phichat logs` lists them")


def _insert_conversation(
    connection: sqlite3.Connection, record: ConversationRecord, source_rows: dict[str, int]
) -> None:
    """sources: turn id to the row that it is a copy of."""
    conversation = connection.execute(
        """INSERT INTO conversation (id, title, created_at, updated_at, origin)
        VALUES (?, CAST(? AS TEXT), ?, ?, ?)""",
        (
            record.id,
            encode_text(record.title),
            to_micros(record.created_at),
            to_micros(record.updated_at),
            record.origin or None,
        ),
    ).lastrowid
    assert conversation is not None
    rows: dict[str, int] = {}
    for turn in _sort_parents_first(record.turns):
        parent = None if turn.parent is None else rows[turn.parent]
        rows[turn.id] = insert_turn(connection, conversation, turn, parent=parent, copied_from=source_rows.get(turn.id))
    if record.head is not None and record.head not in rows:
        raise _invalid_tree(f"its head {record.head!r} is none of its turns")
    head = None if record.head is None else rows[record.head]
    connection.execute("UPDATE conversation SET head = ? WHERE n = ?", (head, conversation))


def _sort_parents_first(turns: Sequence[TurnRecord]) -> Iterable[TurnRecord]:
    children: dict[str | None, list[TurnRecord]] = {}
    for turn in turns:
        children.setdefault(turn.parent, []).append(turn)
    if len({turn.id for turn in turns}) < len(turns):
        raise _invalid_tree("two of its turns have the same id")
    reached_count = 0
    stack = list(reversed(children.get(None, [])))
    while stack:
        turn = stack.pop()
        reached_count += 1
        yield turn
        stack.extend(reversed(children.get(turn.id, [])))
    if reached_count < len(turns):
        raise _invalid_tree("some of its turns follow none that is there")


def _invalid_tree(reason: str) -> TranscriptError:
    return TranscriptError(f"The conversation is not whole: {reason}", "Export it again where it comes from")
