"""Full-text search over prompts and answers."""

import contextlib
import re
import sqlite3
import unicodedata
from dataclasses import dataclass
from datetime import datetime

from phichat.errors import TranscriptError
from phichat.transcript.database import Database, encode_text
from phichat.transcript.fts_segmentation import WORD_BREAK, insert_word_breaks
from phichat.transcript.row_mapping import from_micros, is_writer_alive, partial_text, to_micros, to_rowid
from phichat.types import Role

_MAX_RANKED_MATCHES = 5000
"""More matches than this are not ranked: a word that is everywhere ranks nothing, and it would take long."""

_MAX_QUERY_CHARS, _MAX_QUERY_TERMS = 2000, 32
"""Characters and terms of a query that are used; the rest is ignored."""

_TERM = re.compile(r'"([^"]*)"?|([^\s"]+)')
_HIGHLIGHT_MARKS = ("\ufdd0", "\ufdd1")
"""Noncharacters, which no text holds, around a match."""

_HIGHLIGHT_PATTERN = re.compile(f"{_HIGHLIGHT_MARKS[0]}([^{_HIGHLIGHT_MARKS[1]}]*){_HIGHLIGHT_MARKS[1]}?")
_INDEXED_CATEGORIES = ("L", "N", "Co", "So")
"""Unicode categories of the characters in the full-text index, as in the options of its tokenizer."""

_INDEX_BATCH_SIZE = 200


@dataclass(frozen=True, slots=True)
class SearchFilters:
    """Limits of a search. model: a part of its name; since, until: of the start of the turn, the end excluded."""

    model: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    code_warnings: bool = False


@dataclass(frozen=True, slots=True)
class TurnHit:
    """A matching turn. turn_number: on its branch, from 1. role: of the message that matches.

    snippet: the text around the matches, each piece with whether it is a match.
    """

    conversation: str
    title: str
    turn: str
    turn_number: int
    role: Role
    created_at: datetime
    snippet: tuple[tuple[str, bool], ...]


@dataclass(frozen=True, slots=True)
class SearchResults:
    """The best hits, or the newest where there are too many to rank them."""

    hits: tuple[TurnHit, ...]
    newest_first: bool = False


def to_fts_query(query: str, *, prefix_last_word: bool = False) -> str | None:
    """Return an FTS5 expression for a query as people type it; None when it has no indexed character.

    All words must match; words in quotation marks in that order; a word with a closing * also longer words.
    prefix_last_word: the last word may be unfinished.
    """
    query = query[:_MAX_QUERY_CHARS]
    last_word_end = len(query) if prefix_last_word and not query.endswith((" ", '"')) else -1
    terms: dict[str, None] = {}
    for match in _TERM.finditer(query):
        quoted, word = match.groups()
        term = insert_word_breaks(quoted if word is None else word)
        if any(unicodedata.category(letter).startswith(_INDEXED_CATEGORIES) for letter in term):
            is_prefix = match.end() == last_word_end or (word is not None and word.endswith("*"))
            terms['"' + re.sub(r'["\ud800-\udfff]', " ", term) + '"' + "*" * is_prefix] = None
    return " ".join(list(terms)[:_MAX_QUERY_TERMS]) or None


def search_turns(
    database: Database, query: str, filters: SearchFilters, limit: int, *, prefix_last_word: bool = False
) -> SearchResults:
    """Return the best hits. Raises TranscriptError."""
    with contextlib.suppress(TranscriptError):  # locked or not writable: the newest turns are missed, no others
        index_pending_turns(database)
    fts_query = to_fts_query(query, prefix_last_word=prefix_last_word)
    if fts_query is None or limit <= 0:
        return SearchResults(())
    # The rowid is the time, so that the index need not read older turns.
    since = "words.rowid >= :first AND turn.created_at >= :since"
    where, values = _build_conditions(filters, since, "turn.created_at < :until", "turn.warnings")
    values |= {"fts_query": fts_query, "limit": limit}
    source = f"""FROM words JOIN turn ON turn.n = words.rowid JOIN conversation ON conversation.n = turn.conversation
        LEFT JOIN model ON model.n = turn.model WHERE words MATCH :fts_query AND NOT hidden {where}"""
    with database.read_transaction() as connection:
        is_unranked = connection.execute(
            f"SELECT 1 FROM words WHERE words MATCH :fts_query LIMIT 1 OFFSET {_MAX_RANKED_MATCHES}", values
        ).fetchone()
        order = "words.rowid DESC" if is_unranked else "bm25(words), words.rowid DESC"
        rows = connection.execute(f"SELECT words.rowid {source} ORDER BY {order} LIMIT :limit", values).fetchall()
        return SearchResults(tuple(_read_hit(connection, fts_query, row) for (row,) in rows), bool(is_unranked))


def list_conditions(filters: SearchFilters) -> tuple[str, dict[str, object]]:
    """Return a WHERE clause and its values for the same filters on conversations."""
    warned = "EXISTS (SELECT 1 FROM turn AS one WHERE one.conversation = conversation.n AND one.warnings)"
    return _build_conditions(filters, "updated_at >= :since", "conversation.created_at < :until", warned)


def _build_conditions(filters: SearchFilters, since: str, until: str, warned: str) -> tuple[str, dict[str, object]]:
    conditions = (
        (filters.model is not None, "instr(lower(model.name), lower(CAST(:model AS TEXT)))"),
        (filters.since is not None, since),
        (filters.until is not None, until),
        (filters.code_warnings, warned),
    )
    values: dict[str, object] = {"model": encode_text(filters.model or "")}
    if filters.since is not None:
        values |= {"since": to_micros(filters.since), "first": to_rowid(filters.since)}
    if filters.until is not None:
        values["until"] = to_micros(filters.until)
    return "".join(f" AND {condition}" for is_set, condition in conditions if is_set), values


def _read_hit(connection: sqlite3.Connection, fts_query: str, row: int) -> TurnHit:
    prompt_snippet, answer_snippet, conversation, title, turn, depth, created = connection.execute(
        """SELECT snippet(words, 0, :begin, :end, '…', 14), snippet(words, 1, :begin, :end, '…', 14),
            conversation.id, title, turn.id, depth, turn.created_at
        FROM words JOIN turn ON turn.n = words.rowid JOIN conversation ON conversation.n = turn.conversation
        WHERE words MATCH :fts_query AND words.rowid = :row""",
        {"fts_query": fts_query, "row": row, "begin": _HIGHLIGHT_MARKS[0], "end": _HIGHLIGHT_MARKS[1]},
    ).fetchone()
    is_answer = answer_snippet.count(_HIGHLIGHT_MARKS[0]) > prompt_snippet.count(_HIGHLIGHT_MARKS[0])
    role, marked = (Role.ASSISTANT, answer_snippet) if is_answer else (Role.USER, prompt_snippet)
    # Every second piece is a match.
    pieces = _HIGHLIGHT_PATTERN.split(" ".join(marked.replace(WORD_BREAK, "").split()))
    snippet = tuple((text, index % 2 == 1) for index, text in enumerate(pieces) if text or index % 2)
    return TurnHit(conversation, title, turn, depth, role, from_micros(created), snippet)


def index_pending_turns(database: Database) -> None:
    """Add new turns to the full-text index, except replies that are being written. Raises TranscriptError."""
    last_row = -(2**63)
    while True:
        with database.read_transaction() as connection:
            pending = connection.execute(
                """SELECT n, finish_reason, writer, created_at FROM pending CROSS JOIN turn ON n = turn
                WHERE n > ? ORDER BY n LIMIT ?""",
                (last_row, _INDEX_BATCH_SIZE),
            ).fetchall()
        if not pending:
            return
        last_row = pending[-1][0]
        rows = [n for n, reason, writer, began in pending if reason is not None or not is_writer_alive(writer, began)]
        with database.write_transaction() as connection:
            for row in rows:
                _index_turn(connection, row)


def _index_turn(connection: sqlite3.Connection, row: int) -> None:
    if not connection.execute("DELETE FROM pending WHERE turn = ?", (row,)).rowcount:
        return  # another process was faster
    text, reasoning = partial_text(connection, row)
    if text or reasoning:  # its writer has died
        connection.execute(
            """UPDATE turn SET text = text || CAST(? AS TEXT), reasoning = reasoning || CAST(? AS TEXT), writer = NULL
            WHERE n = ?""",
            (encode_text(text), encode_text(reasoning), row),
        )
        connection.execute("DELETE FROM piece WHERE turn = ?", (row,))
    connection.execute(
        "INSERT INTO words (rowid, prompt, text) SELECT n, prompt, text FROM searchable WHERE n = ?", (row,)
    )
