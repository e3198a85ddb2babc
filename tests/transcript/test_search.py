"""Finding what was said, and never an error for what was typed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phichat.code_report import CodeReport
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.search import SearchFilters, SearchResults
from phichat.transcript.store import TranscriptStore
from phichat.types import ModelInfo, Role

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TranscriptStore:
    store = TranscriptStore.open_file(tmp_path_factory.mktemp("data") / "logs.db")
    said = [
        ("How do I read a file in Python?", "Use pathlib: Path('a').read_text()", "phi"),
        ("Wie heißt die Straße?", "Café in der Königstraße", "phi"),
        ("今天天气怎么样", "東京は晴れです。สวัสดีครับ", "qwen"),
        ("my_func fails with KeyError \U0001f600", "x OR y NEAR z\0after the NUL", "qwen"),
        ("half \udcff argv", 'a "quoted phrase" here', "phi"),
    ]
    for at, (prompt, text, model) in enumerate(said):
        turn = TurnRecord(f"t{at}", None, NOON + timedelta(at), prompt, text, model=ModelInfo(model))
        store.add_conversation(ConversationRecord(f"c{at}", f"T{at}", NOON, NOON, (turn,), turn.id))
    return store


def found(store: TranscriptStore, query: str, filters: SearchFilters = SearchFilters()) -> set[str]:  # noqa: B008
    return {hit.conversation for hit in store.search_turns(query, filters, 20).hits}


@pytest.mark.parametrize(
    ("query", "conversations"),
    [
        ("pathlib", {"c0"}),
        ("read file", {"c0"}),
        ("file read_text", {"c0"}),
        ("read_text()", {"c0"}),
        ("cafe", {"c1"}),
        ("KÖNIGSTRASSE", set()),
        ("konig*", {"c1"}),
        ("天气", {"c2"}),
        ("晴れ", {"c2"}),
        ("天怎", set()),
        ("สวัสดี", {"c2"}),
        ("\U0001f600", {"c3"}),
        ("NUL", {"c3"}),
        ("y OR x", {"c3"}),
        ("NEAR(", {"c3"}),
        ('"quoted phrase"', {"c4"}),
        ('"phrase quoted"', set()),
        ('"quoted phr', set()),
        ("argv half", {"c4"}),
        ("-", set()),
        ("", set()),
        ("prompt:x", set()),
        ("\0", set()),
        ("half\0argv", {"c4"}),
        ("half " * 300_000, {"c4"}),
    ],
)
def test_what_is_found(store: TranscriptStore, query: str, conversations: set[str]) -> None:
    assert found(store, query) == conversations


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.text(st.characters(), max_size=60) | st.text('"*^:()+-{}NEAROT, ab\0天', max_size=60))
def test_whatever_is_typed_is_a_search(store: TranscriptStore, query: str) -> None:
    store.search_turns(query, SearchFilters(), 5)
    store.search_turns(query, SearchFilters(), 5, prefix_last_word=True)


def test_long_runs_are_searches_too(store: TranscriptStore) -> None:
    for query in ("天" * 400_000, "x" * 1_000_000, "\udcff" * 1000, " ".join(map(str, range(100_000)))):
        store.search_turns(query, SearchFilters(), 5)


def test_filters(store: TranscriptStore) -> None:
    assert found(store, "a", SearchFilters(model="PHI")) == {"c0", "c4"}
    assert found(store, "a", SearchFilters(since=NOON + timedelta(1))) == {"c4"}
    assert found(store, "a", SearchFilters(until=NOON + timedelta(1))) == {"c0"}
    assert found(store, "a", SearchFilters(code_warnings=True)) == set()


def test_a_hit_says_who_said_it_and_shows_where(store: TranscriptStore) -> None:
    (hit,) = store.search_turns("pathlib", SearchFilters(), 5).hits
    assert (hit.turn, hit.turn_number, hit.role, hit.title) == ("t0", 1, Role.ASSISTANT, "T0")
    assert hit.snippet == (("Use ", False), ("pathlib", True), (": Path('a').read_text()", False))
    (hit,) = store.search_turns("天气", SearchFilters(), 5).hits
    assert hit.snippet == (("今天", False), ("天气", True), ("怎么样", False))


def test_words_are_found_while_they_are_typed(store: TranscriptStore) -> None:
    assert [
        hit.conversation for hit in store.search_turns("pathl", SearchFilters(), 5, prefix_last_word=True).hits
    ] == ["c0"]
    assert not store.search_turns("pathl ", SearchFilters(), 5, prefix_last_word=True).hits


def test_a_fork_is_not_found_twice_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = TranscriptStore.open_file(tmp_path / "logs.db")
    turn = TurnRecord("t", None, NOON, "zebra", "stripes", code=CodeReport(warnings=("w",)))
    store.add_conversation(ConversationRecord("c", "", NOON, NOON, (turn,), "t"))
    forks = [store.fork_conversation("c", 1), store.fork_conversation("c", 1)]
    forks.append(store.fork_conversation(forks[0], 1))
    warned = SearchFilters(code_warnings=True)
    assert found(store, "zebra", warned) == {"c"}
    store.delete_conversations(["c"])
    (heir,) = found(store, "zebra", warned)
    assert heir in forks
    store.delete_conversations([heir])
    assert len(found(store, "zebra", warned)) == 1
    store.delete_conversations([id_ for id_ in forks if id_ != heir])
    assert found(store, "zebra") == set()


def test_of_a_word_that_stands_everywhere_the_newest_come_first(tmp_path: Path) -> None:
    store = TranscriptStore.open_file(tmp_path / "logs.db")
    turns = tuple(
        TurnRecord(f"t{at:05}", f"t{at - 1:05}" if at else None, NOON - timedelta(hours=at), "common", f"rare{at}")
        for at in range(5001)
    )
    store.add_conversation(ConversationRecord("c", "", NOON, NOON, turns, turns[-1].id))
    common: SearchResults = store.search_turns("common", SearchFilters(), 3)
    assert common.newest_first
    assert [hit.turn for hit in common.hits] == ["t00000", "t00001", "t00002"]
    rare = store.search_turns("common rare17", SearchFilters(), 3)
    assert (rare.newest_first, [hit.turn for hit in rare.hits]) == (False, ["t00017"])


def test_hidden_is_not_found_until_it_is_shown_again(tmp_path: Path) -> None:
    store = TranscriptStore.open_file(tmp_path / "logs.db")
    turn = replace(TurnRecord("t", None, NOON, "zebra"), text="x")
    store.add_conversation(ConversationRecord("c", "", NOON, NOON, (turn,), "t"))
    store.soft_delete("c")
    assert (found(store, "zebra"), store.latest_id()) == (set(), None)
    store.restore("c")
    assert found(store, "zebra") == {"c"}
    store.soft_delete("c")
    store.purge_soft_deleted()
    assert store.list_conversations() == []
