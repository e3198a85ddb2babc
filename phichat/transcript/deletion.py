"""Deleting turns without traces in tables, free pages, or the full-text index."""

import sqlite3
from collections.abc import Iterable

from phichat.errors import TranscriptError
from phichat.transcript.database import Database

_MERGE_PAGES = 500
"""Pages of the full-text index that are merged per transaction, so that other processes can write in between."""


def delete_turns(connection: sqlite3.Connection, rows: Iterable[int]) -> None:
    """Delete turns that no other turns follow. Raises sqlite3.Error kinds."""
    connection.execute("CREATE TEMP TABLE IF NOT EXISTS leaving (n INTEGER PRIMARY KEY)")
    connection.execute("DELETE FROM leaving")
    connection.executemany("INSERT INTO leaving VALUES (?)", ((row,) for row in rows))
    connection.execute(
        """INSERT INTO words (words, rowid, prompt, text)
        SELECT 'delete', n, searchable.prompt, searchable.text
        FROM leaving JOIN searchable USING (n) JOIN turn USING (n)
        WHERE copied_from IS NULL AND n NOT IN (SELECT turn FROM pending)"""
    )
    successors = connection.execute(
        """SELECT copied_from, min(n) FROM turn
        WHERE copied_from IN (SELECT n FROM leaving) AND n NOT IN (SELECT n FROM leaving) GROUP BY copied_from"""
    ).fetchall()
    for source, successor in successors:  # the copy in a fork is indexed instead
        connection.execute("UPDATE turn SET copied_from = NULL WHERE n = ?", (successor,))
        connection.execute("UPDATE turn SET copied_from = ? WHERE copied_from = ?", (successor, source))
        connection.execute("INSERT INTO pending (turn) VALUES (?)", (successor,))
    connection.execute("DELETE FROM turn WHERE n IN (SELECT n FROM leaving)")
    connection.execute(
        """DELETE FROM shared WHERE NOT EXISTS (SELECT 1 FROM turn WHERE params = shared.n)
        AND NOT EXISTS (SELECT 1 FROM turn WHERE system = shared.n)"""
    )
    connection.execute("DELETE FROM model WHERE NOT EXISTS (SELECT 1 FROM turn WHERE model = model.n)")


def purge_deleted(database: Database) -> bool:
    """Remove deleted words from older segments of the full-text index, and deleted pages from the write-ahead log.

    Return False where another process reads the log; it is removed when the last one ends. Raises TranscriptError.
    """
    pages = -_MERGE_PAGES  # a negative number begins a merge of everything
    while True:
        with database.write_transaction() as connection:
            changes_before = connection.total_changes
            connection.execute("INSERT INTO words (words, rank) VALUES ('merge', ?)", (pages,))
            if connection.total_changes - changes_before < 2:
                break
        pages = _MERGE_PAGES
    try:
        with database.autocommit() as connection:
            (busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except TranscriptError:
        return False
    return not busy
