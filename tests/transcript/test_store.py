"""The store on real SQLite files."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from phichat.code_report import CheckedBlock, CodeReport, ImportedPackage, PackageStatus
from phichat.errors import ConversationNotFound, TranscriptError
from phichat.transcript.ids import make_ascending_ids, new_id
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
REPORT = CodeReport(
    (CheckedBlock("python", 3, True, True, (ImportedPackage("nump", "", PackageStatus.SUSPICIOUS, 1),)),),
    ("rust",),
    warnings=("nump is suspicious",),
)


def full_turn(id_: str = "t1", parent: str | None = None) -> TurnRecord:
    return TurnRecord(
        id_,
        parent,
        NOON,
        "a prompt \0 with \udcff everything 你好 \U0001f600",
        "the text",
        "the thought",
        "be kind",
        NOON + timedelta(microseconds=1),
        FinishReason.LENGTH,
        "no error",
        ModelInfo("m", sha256="ab", devices=("one", "two"), size=2**40),
        SamplingParams(temperature=0.1, seed=2**32 - 2, stop=("a", "b")),
        2**32 - 2,
        Usage(1, 2, 3),
        Timings(0.1, 0.2, 0.3, 1 / 3, 1e9),
        4096,
        2,
        REPORT,
    )


def conversation(id_: str, *turns: TurnRecord, origin: str = "") -> ConversationRecord:
    return ConversationRecord(id_, "A title", NOON, NOON, turns, turns[-1].id if turns else None, origin)


@pytest.fixture
def store(tmp_path: Path) -> TranscriptStore:
    return TranscriptStore.open_file(tmp_path / "data" / "logs.db")


def test_a_conversation_comes_back_as_it_was(store: TranscriptStore) -> None:
    bare = TurnRecord("t2", "t1", NOON, "again")
    kept = conversation("c1", full_turn(), bare, replace(full_turn("t3", "t1"), code=None), origin="llm:x")
    assert store.add_conversation(kept)
    assert store.get_conversation("c1") == kept
    assert not store.add_conversation(replace(kept, origin=""))
    assert not store.add_conversation(replace(kept, id="c2"))


def test_ids_sort_by_time_and_never_twice() -> None:
    assert new_id(NOON) < new_id(NOON + timedelta(milliseconds=1))
    following = make_ascending_ids()
    made = [following(NOON - timedelta(seconds=n % 3)) for n in range(1000)]
    assert made == sorted(set(made))


def test_a_prefix_is_enough_when_it_is_ones_own(store: TranscriptStore) -> None:
    for id_ in ("abc1", "abd1", "abd12", "b"):
        store.add_conversation(conversation(id_))
    assert store.find_id("abc") == store.find_id(" ABC1") == "abc1"
    assert store.find_id("abd1") == "abd1"
    with pytest.raises(ConversationNotFound) as several:
        store.find_id("ab")
    assert several.value.candidates == ("abd12", "abd1", "abc1")
    for unknown in ("abce", "", "\udcff", "\0", "b%", "'"):
        with pytest.raises(ConversationNotFound):
            store.find_id(unknown)


@pytest.mark.parametrize(
    "turns",
    [
        (full_turn(), full_turn()),
        (full_turn("a", "b"), full_turn("b", "a")),
        (full_turn("a", "gone"),),
    ],
)
def test_what_makes_no_tree_is_refused_whole(store: TranscriptStore, turns: tuple[TurnRecord, ...]) -> None:
    with pytest.raises(TranscriptError):
        store.add_conversation(conversation("c", *turns))
    assert store.latest_id() is None


def test_a_fork_is_a_conversation_of_its_own(store: TranscriptStore) -> None:
    store.add_conversation(conversation("c1", full_turn(), full_turn("t2", "t1"), full_turn("t3", "t2")))
    forked = store.get_conversation(store.fork_conversation("c1", 2))
    assert [turn.id for turn in forked.get_branch()] == ["t1", "t2"]
    assert store.latest_id() == forked.id
    with pytest.raises(TranscriptError):
        store.fork_conversation("c1", 4)


def test_the_listing(store: TranscriptStore) -> None:
    store.add_conversation(replace(conversation("c1", full_turn()), updated_at=NOON + timedelta(1)))
    store.add_conversation(conversation("c2"))
    assert [(one.id, one.model, one.turns) for one in store.list_conversations()] == [("c1", "m", 1), ("c2", "", 0)]
    assert len(store.list_conversations(1)) == 1
    store.rename_conversation("c2", "Other")
    assert store.list_conversations()[1].title == "Other"
