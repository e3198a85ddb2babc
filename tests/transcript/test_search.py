"""Finding what was said, and never an error for what was typed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phichat.code_report import CodeReport
from phichat.messages import ModelInfo, Role
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.search import Filters, Found
from phichat.transcript.store import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store.open(tmp_path_factory.mktemp("data") / "logs.db")
    said = [
        ("How do I read a file in Python?", "Use pathlib: Path('a').read_text()", "phi"),
        ("Wie heißt die Straße?", "Café in der Königstraße", "phi"),
        ("今天天气怎么样", "東京は晴れです。สวัสดีครับ", "qwen"),
        ("my_func fails with KeyError \U0001f600", "x OR y NEAR z\0after the NUL", "qwen"),
        ("half \udcff argv", 'a "quoted phrase" here', "phi"),
    ]
    for at, (prompt, text, model) in enumerate(said):
        turn = TurnRecord(f"t{at}", None, NOON + timedelta(at), prompt, text, model=ModelInfo(model))
        store.add(ConversationRecord(f"c{at}", f"T{at}", NOON, NOON, (turn,), turn.id))
    return store


def found(store: Store, query: str, filters: Filters = Filters()) -> set[str]:  # noqa: B008
    return {hit.conversation for hit in store.search(query, filters, 20).hits}


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
def test_what_is_found(store: Store, query: str, conversations: set[str]) -> None:
    assert found(store, query) == conversations


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(st.text(st.characters(), max_size=60) | st.text('"*^:()+-{}NEAROT, ab\0天', max_size=60))
def test_whatever_is_typed_is_a_search(store: Store, query: str) -> None:
    store.search(query, Filters(), 5)
    store.search(query, Filters(), 5, as_typed=True)


def test_long_runs_are_searches_too(store: Store) -> None:
    for query in ("天" * 400_000, "x" * 1_000_000, "\udcff" * 1000, " ".join(map(str, range(100_000)))):
        store.search(query, Filters(), 5)


def test_filters(store: Store) -> None:
    assert found(store, "a", Filters(model="PHI")) == {"c0", "c4"}
    assert found(store, "a", Filters(since=NOON + timedelta(1))) == {"c4"}
    assert found(store, "a", Filters(until=NOON + timedelta(1))) == {"c0"}
    assert found(store, "a", Filters(code_warnings=True)) == set()


def test_a_hit_says_who_said_it_and_shows_where(store: Store) -> None:
    (hit,) = store.search("pathlib", Filters(), 5).hits
    assert (hit.turn, hit.number, hit.role, hit.title) == ("t0", 1, Role.ASSISTANT, "T0")
    assert hit.snippet == (("Use ", False), ("pathlib", True), (": Path('a').read_text()", False))
    (hit,) = store.search("天气", Filters(), 5).hits
    assert hit.snippet == (("今天", False), ("天气", True), ("怎么样", False))


def test_words_are_found_while_they_are_typed(store: Store) -> None:
    assert [hit.conversation for hit in store.search("pathl", Filters(), 5, as_typed=True).hits] == ["c0"]
    assert not store.search("pathl ", Filters(), 5, as_typed=True).hits


def test_a_fork_is_not_found_twice_and_keeps_what_it_has(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "logs.db")
    turn = TurnRecord("t", None, NOON, "zebra", "stripes", code=CodeReport(warnings=("w",)))
    store.add(ConversationRecord("c", "", NOON, NOON, (turn,), "t"))
    forks = [store.fork("c", 1), store.fork("c", 1)]
    forks.append(store.fork(forks[0], 1))
    warned = Filters(code_warnings=True)
    assert found(store, "zebra", warned) == {"c"}
    store.remove(["c"])
    (heir,) = found(store, "zebra", warned)
    assert heir in forks
    store.remove([heir])
    assert len(found(store, "zebra", warned)) == 1
    store.remove([id_ for id_ in forks if id_ != heir])
    assert found(store, "zebra") == set()


def test_of_a_word_that_stands_everywhere_the_newest_come_first(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "logs.db")
    turns = tuple(
        TurnRecord(f"t{at:05}", f"t{at - 1:05}" if at else None, NOON - timedelta(hours=at), "common", f"rare{at}")
        for at in range(5001)
    )
    store.add(ConversationRecord("c", "", NOON, NOON, turns, turns[-1].id))
    common: Found = store.search("common", Filters(), 3)
    assert common.newest_first
    assert [hit.turn for hit in common.hits] == ["t00000", "t00001", "t00002"]
    rare = store.search("common rare17", Filters(), 3)
    assert (rare.newest_first, [hit.turn for hit in rare.hits]) == (False, ["t00017"])


def test_hidden_is_not_found_until_it_is_shown_again(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "logs.db")
    turn = replace(TurnRecord("t", None, NOON, "zebra"), text="x")
    store.add(ConversationRecord("c", "", NOON, NOON, (turn,), "t"))
    store.hide("c")
    assert (found(store, "zebra"), store.latest()) == (set(), None)
    store.unhide("c")
    assert found(store, "zebra") == {"c"}
    store.hide("c")
    store.remove_hidden()
    assert store.conversations() == []
