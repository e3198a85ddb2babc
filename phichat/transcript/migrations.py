"""The schema, as the migrations that create it. A released one never changes; new ones are appended.

The rowid of a turn is the time it began, in tenths of a second since 1970 (or the next free number): the
full-text index can then sort by time, and filter by it, without reading the turns.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from phichat.errors import TranscriptError


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration. name: recorded in the store, never to be changed."""

    name: str
    statements: Sequence[str]


MIGRATIONS = (
    Migration(
        "conversations, turns and their full text",
        (
            # Values that many turns share: sampling parameters and system prompts.
            "CREATE TABLE shared (n INTEGER PRIMARY KEY, value TEXT NOT NULL UNIQUE)",
            # path: where its file was when it was last used, so that a conversation can continue with it.
            "CREATE TABLE model (n INTEGER PRIMARY KEY, name TEXT NOT NULL, info TEXT NOT NULL UNIQUE, path TEXT)",
            """CREATE TABLE conversation (
                n INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                title TEXT NOT NULL,
                created_at INTEGER NOT NULL,  -- this and all times: microseconds since 1970, UTC
                updated_at INTEGER NOT NULL,
                head INTEGER REFERENCES turn (n) ON DELETE SET NULL,
                origin TEXT UNIQUE,
                hidden INTEGER NOT NULL DEFAULT 0
            )""",
            "CREATE INDEX conversation_updated ON conversation (hidden, updated_at)",
            "CREATE INDEX conversation_head ON conversation (head)",
            # writer: the process that writes the reply. copied_from: the turn that a fork took this one from.
            # The small columns come first: a row's long texts go to pages of their own.
            """CREATE TABLE turn (
                n INTEGER PRIMARY KEY,
                id TEXT NOT NULL,
                conversation INTEGER NOT NULL REFERENCES conversation (n),
                parent INTEGER REFERENCES turn (n),
                depth INTEGER NOT NULL,
                created_at INTEGER NOT NULL,
                finished_at INTEGER,
                finish_reason TEXT,
                writer INTEGER,
                copied_from INTEGER REFERENCES turn (n) ON DELETE SET NULL,
                model INTEGER REFERENCES model (n),
                params INTEGER REFERENCES shared (n),
                system INTEGER REFERENCES shared (n),
                seed INTEGER,
                n_ctx INTEGER NOT NULL DEFAULT 0,
                dropped_turns INTEGER NOT NULL DEFAULT 0,
                prompt_tokens INTEGER,
                cached_tokens INTEGER,
                completion_tokens INTEGER,
                warnings INTEGER NOT NULL DEFAULT 0,
                timings TEXT,
                code TEXT,
                error TEXT NOT NULL DEFAULT '',
                prompt TEXT NOT NULL,
                text TEXT NOT NULL DEFAULT '',
                reasoning TEXT NOT NULL DEFAULT '',
                UNIQUE (conversation, id)
            )""",
            "CREATE INDEX turn_parent ON turn (parent) WHERE parent IS NOT NULL",
            "CREATE INDEX turn_copied ON turn (copied_from) WHERE copied_from IS NOT NULL",
            "CREATE INDEX turn_model ON turn (model) WHERE model IS NOT NULL",
            "CREATE INDEX turn_params ON turn (params) WHERE params IS NOT NULL",
            "CREATE INDEX turn_system ON turn (system) WHERE system IS NOT NULL",
            # Streamed pieces of a reply, until its end writes the whole into the turn.
            """CREATE TABLE piece (
                n INTEGER PRIMARY KEY,
                turn INTEGER NOT NULL REFERENCES turn (n) ON DELETE CASCADE,
                text TEXT NOT NULL,
                reasoning TEXT NOT NULL
            )""",
            "CREATE INDEX piece_turn ON piece (turn)",
            # Turns that are not yet in the full-text index.
            "CREATE TABLE pending (turn INTEGER PRIMARY KEY REFERENCES turn (n) ON DELETE CASCADE)",
            # spaced() is fts_segmentation.insert_word_breaks.
            """CREATE VIEW searchable AS
                SELECT n, spaced(CAST(prompt AS BLOB)) AS prompt, spaced(CAST(text AS BLOB)) AS text FROM turn""",
            """CREATE VIRTUAL TABLE words USING fts5 (
                prompt, text, content='searchable', content_rowid='n',
                tokenize="unicode61 remove_diacritics 2 categories 'L* N* Co So'"
            )""",
        ),
    ),
    # Since 0.2. JSON: the parts that the prompt was rendered from, NULL where it is only text.
    Migration("parts of prompts", ("ALTER TABLE turn ADD COLUMN prompt_parts TEXT",)),
)


def migrate_schema(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply the missing migrations in one transaction; a read-only store stays as it is.

    Raises TranscriptError for a store of a newer phichat, and sqlite3.Error kinds.
    """
    missing = _find_missing(connection, migrations)
    if not missing:
        return
    try:
        connection.execute("BEGIN IMMEDIATE")
        missing = _find_missing(connection, migrations)  # another process may have been faster
        if len(missing) == len(migrations):
            connection.execute("CREATE TABLE migration (n INTEGER PRIMARY KEY, name TEXT NOT NULL)")
        for migration in missing:
            for statement in migration.statements:
                connection.execute(statement)
            connection.execute("INSERT INTO migration (name) VALUES (?)", (migration.name,))
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        # Reading works without the columns of later migrations, but not without the tables of the first one.
        if len(missing) == len(migrations) or not error.sqlite_errorname.startswith("SQLITE_READONLY"):
            raise
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _find_missing(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> Sequence[Migration]:
    applied = []
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'migration'").fetchone():
        applied = [name for (name,) in connection.execute("SELECT name FROM migration ORDER BY n")]
    if applied != [migration.name for migration in migrations[: len(applied)]]:
        raise TranscriptError("These transcripts were written by a newer phichat", "Update phichat to read them")
    return migrations[len(applied) :]
