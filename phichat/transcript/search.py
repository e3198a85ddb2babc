"""Full-text search over prompts and answers."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from phichat.errors import TranscriptError
from phichat.messages import Role
from phichat.transcript.database import Database, as_bytes
from phichat.transcript.rows import is_writing, moment, pieces_of, rowid_of, stamp
from phichat.transcript.spacing import spaced, unspaced

_COMMON = 5000
"""More matches than this are not ranked: what stands everywhere ranks nothing, and it would take long."""

_LONGEST, _MOST = 2000, 32
"""Characters and terms of a query that are looked at."""

_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')
_MARKS = ("\ufdd0", "\ufdd1")
"""Noncharacters, which no text holds, around what was found."""

_MARKED = re.compile(f"{_MARKS[0]}([^{_MARKS[1]}]*){_MARKS[1]}?")
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Filters:
    """What to search in. model: a part of its name; since, until: when the turn began, the end excluded."""

    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    code_warnings: bool = False


@dataclass(frozen=True, slots=True)
class Hit:
    """A turn that was found. number: its place on its branch, from 1. role: whose words were found.

    snippet: what stands around them, each piece with whether it was searched for.
    """

    conversation: str
    title: str
    turn: str
    number: int
    role: Role
    created_at: datetime
    snippet: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The best hits, or the newest where there are too many to rank them."""

    hits: tuple[Hit, ...]
    newest_first: bool = False


def expression(query: str, *, as_typed: bool = False) -> str | None:
    """An FTS5 expression for whatever people type; None when it holds nothing that an index could have.

    All words have to be there, in quotation marks one after the other, with a closing * also longer ones.
    as_typed: the last word may be unfinished.
    """
    terms: dict[str, None] = {}
    found = list(_TERM.finditer(query[:_LONGEST]))
    for at, match in enumerate(found):
        quoted, word = match.groups()
        term = spaced(quoted if word is None else word)
        if not any(_is_searchable(letter) for letter in term):
            continue
        unfinished = as_typed and at + 1 == len(found) and not query[:_LONGEST].endswith((" ", '"'))
        longer = unfinished or (word is not None and word.endswith("*"))
        terms['"' + re.sub(r'["\ud800-\udfff]', " ", term) + '"' + "*" * longer] = None
    return " ".join(list(terms)[:_MOST]) or None


def _is_searchable(letter: str) -> bool:
    category = unicodedata.category(letter)
    return category[0] in "LN" or category in ("Co", "So")


def search(database: Database, query: str, filters: Filters, limit: int, *, as_typed: bool = False) -> Found:
    """The first hits. Raises TranscriptError."""
    with contextlib.suppress(TranscriptError):  # locked or not writable: the newest turns are missed, no others
        index_pending(database)
    wanted = expression(query, as_typed=as_typed)
    if wanted is None or limit <= 0:
        return Found(())
    where, values = _conditions(filters)
    values["wanted"] = wanted
    source = f"""FROM words JOIN turn ON turn.n = words.rowid JOIN conversation ON conversation.n = turn.conversation
        LEFT JOIN model ON model.n = turn.model WHERE words MATCH :wanted AND NOT hidden {where}"""
    with database.reading() as connection:
        (matches,) = connection.execute(
            f"SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH :wanted LIMIT {_COMMON + 1})", values
        ).fetchone()
        is_common = matches > _COMMON
        order = "words.rowid DESC" if is_common else "bm25(words), words.rowid DESC"
        rows = connection.execute(
            f"SELECT words.rowid {source} ORDER BY {order} LIMIT :limit", {**values, "limit": limit}
        ).fetchall()
        return Found(tuple(_hit(connection, wanted, row) for (row,) in rows), is_common)


def _conditions(filters: Filters) -> tuple[str, dict[str, object]]:
    conditions, values = [""], dict[str, object]()
    if filters.model is not None:
        conditions.append("instr(lower(model.name), lower(CAST(:model AS TEXT)))")
        values["model"] = as_bytes(filters.model)
    if filters.since is not None:
        conditions.append("words.rowid >= :first AND turn.created_at >= :since")
        values |= {"since": stamp(filters.since), "first": rowid_of(stamp(filters.since))}
    if filters.until is not None:
        conditions.append("turn.created_at < :until")
        values["until"] = stamp(filters.until)
    if filters.code_warnings:
        conditions.append("turn.warnings")
    return " AND ".join(conditions), values


def listing_conditions(filters: Filters) -> tuple[str, dict[str, object]]:
    """The same filters on conversations: when they were spoken in, by what."""
    where, values = "", dict[str, object]()
    if filters.model is not None:
        where += " AND instr(lower(model.name), lower(CAST(:model AS TEXT)))"
        values["model"] = as_bytes(filters.model)
    if filters.since is not None:
        where += " AND updated_at >= :since"
        values["since"] = stamp(filters.since)
    if filters.until is not None:
        where += " AND conversation.created_at < :until"
        values["until"] = stamp(filters.until)
    if filters.code_warnings:
        where += " AND EXISTS (SELECT 1 FROM turn AS one WHERE one.conversation = conversation.n AND one.warnings)"
    return where, values


def _hit(connection: sqlite3.Connection, wanted: str, row: int) -> Hit:
    asked, answered, conversation, title, turn, depth, created = connection.execute(
        """SELECT snippet(words, 0, :begin, :end, '…', 14), snippet(words, 1, :begin, :end, '…', 14),
            conversation.id, title, turn.id, depth, turn.created_at
        FROM words JOIN turn ON turn.n = words.rowid JOIN conversation ON conversation.n = turn.conversation
        WHERE words MATCH :wanted AND words.rowid = :row""",
        {"wanted": wanted, "row": row, "begin": _MARKS[0], "end": _MARKS[1]},
    ).fetchone()
    is_answer = answered.count(_MARKS[0]) > asked.count(_MARKS[0])
    return Hit(
        conversation,
        title,
        turn,
        depth,
        Role.ASSISTANT if is_answer else Role.USER,
        moment(created),
        tuple(_parts(" ".join(unspaced(answered if is_answer else asked).split()))),
    )


def _parts(marked: str) -> Iterator[tuple[str, bool]]:
    at = 0
    for match in _MARKED.finditer(marked):
        if match.start() > at:
            yield marked[at : match.start()], False
        yield match.group(1), True
        at = match.end()
    if at < len(marked):
        yield marked[at:], False


def index_pending(database: Database) -> None:
    """Put into the full-text index what is not there yet; replies that are being written wait.

    Raises TranscriptError.
    """
    after = -(2**63)
    while True:
        with database.reading() as connection:
            waiting = connection.execute(
                """SELECT n, finish_reason, writer, created_at FROM pending CROSS JOIN turn ON n = turn
                WHERE n > ? ORDER BY n LIMIT ?""",
                (after, _BATCH),
            ).fetchall()
        if not waiting:
            return
        after = waiting[-1][0]
        rows = [n for n, reason, writer, began in waiting if reason is not None or not is_writing(writer, began)]
        with database.writing() as connection:
            for row in rows:
                _index(connection, row)


def _index(connection: sqlite3.Connection, row: int) -> None:
    if not connection.execute("DELETE FROM pending WHERE turn = ?", (row,)).rowcount:
        return  # another process was faster
    text, reasoning = pieces_of(connection, row)
    if text or reasoning:  # its writer has died
        connection.execute(
            """UPDATE turn SET text = text || CAST(? AS TEXT), reasoning = reasoning || CAST(? AS TEXT), writer = NULL
            WHERE n = ?""",
            (as_bytes(text), as_bytes(reasoning), row),
        )
        connection.execute("DELETE FROM piece WHERE turn = ?", (row,))
    connection.execute(
        "INSERT INTO words (rowid, prompt, text) SELECT n, prompt, text FROM searchable WHERE n = ?", (row,)
    )
