"""What is on disk while an answer is made, and after whatever ends it."""

import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.chat.context_window import MessageHistory, TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.chat.vote.majority import VoteConfig
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed
from phichat.events import (
    Event,
    ReasoningDelta,
    SampleFinished,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
)
from phichat.transcript.recorder import Recorder
from phichat.transcript.records import TurnRecord
from phichat.transcript.search import SearchFilters
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason, Message, Role, SamplingParams

CRASH = EngineCrashed("The engine crashed", "ask again")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "logs.db"


def turns_in(path: Path) -> tuple[TurnRecord, ...]:
    store = TranscriptStore.open_file(path)
    latest = store.latest_id()
    turns = store.get_conversation(latest).turns if latest else ()
    store.close()
    return turns


def speak(recorder: Recorder, *replies: ScriptedReply, prompts: int = 1) -> list[Event]:
    pipeline = TurnPipeline(ScriptedBackend(replies), recorder)
    events: list[Event] = []
    for at in range(prompts):
        events += pipeline.run(TurnHistory("be kind", (), f"prompt {at}"), SamplingParams(seed=7), CancelToken())
    return events


def ask(recorder: Recorder, prompt: str, *replies: ScriptedReply) -> Iterator[Event]:
    pipeline = TurnPipeline(ScriptedBackend(replies), recorder)
    return pipeline.run(TurnHistory(None, (), prompt), SamplingParams(), CancelToken())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_turn_is_kept_with_all_that_is_known_of_it(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    events = speak(recorder, ScriptedReply(["one ", "two"], reasoning=["hm", "m"]), prompts=2)
    recorder.close()
    first, second = turns_in(path)
    assert (first.prompt, first.text, first.reasoning, first.system) == ("prompt 0", "one two", "hmm", "be kind")
    assert (first.finish_reason, first.seed, first.params) == (FinishReason.STOP, 7, SamplingParams(seed=7))
    assert (first.model, second.model) == (first.model, first.model)
    assert first.model is not None and first.usage is not None and first.model.name == "scripted"
    assert second.parent == first.id
    assert not any(isinstance(event, TranscriptUnavailable) for event in events)


def test_only_the_owner_can_read_it_from_the_first_moment(path: Path) -> None:
    before = os.umask(0)
    try:
        store = TranscriptStore.open_file(path)
        with store.database.write_transaction():
            pass
    finally:
        os.umask(before)
    if sys.platform != "win32":
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_the_prompt_is_kept_before_anything_else_happens(path: Path) -> None:
    events = ask(Recorder(lambda: TranscriptStore.open_file(path)), "hello", ScriptedReply(["x"]))
    assert isinstance(next(events), TurnStarted)
    (turn,) = turns_in(path)
    assert (turn.prompt, turn.finish_reason, turn.live, turn.is_cut_off) == ("hello", None, True, False)


def test_what_was_streamed_is_kept_while_nothing_more_comes(path: Path) -> None:
    goes_on = threading.Event()

    def stalled() -> Iterator[Event]:
        yield TurnStarted("p", None, SamplingParams())
        yield ReasoningDelta("let me see")
        yield TextDelta("so ")
        yield TextDelta("far")
        goes_on.wait(30)
        yield TurnFinished("so far", "let me see", FinishReason.STOP)

    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    reader = threading.Thread(target=lambda: list(recorder.record_events(stalled())))
    reader.start()
    until(lambda: bool(turns_in(path)) and turns_in(path)[0].text == "so far")
    assert turns_in(path)[0].reasoning == "let me see"
    assert turns_in(path)[0].live
    goes_on.set()
    reader.join()
    assert turns_in(path)[0].finish_reason is FinishReason.STOP


def test_an_error_is_kept_with_what_was_said(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    with pytest.raises(EngineCrashed):
        speak(recorder, ScriptedReply(["half"], error=CRASH))
    (turn,) = turns_in(path)
    assert (turn.text, turn.finish_reason, turn.error) == ("half", FinishReason.ERROR, str(CRASH))


def test_who_stops_listening_has_cancelled(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    for event in ask(recorder, "p", ScriptedReply(["one ", "two ", "three"])):
        if isinstance(event, TextDelta):
            break
    recorder.close()
    (turn,) = turns_in(path)
    assert (turn.text, turn.finish_reason) == ("one ", FinishReason.CANCELLED)


def test_regenerated_replies_stand_beside_each_other(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    speak(recorder, ScriptedReply(["a"]), ScriptedReply(["b"]), prompts=2)
    first = turns_in(path)[0]
    recorder.parent_id = first.id
    speak(recorder, ScriptedReply(["c"]))
    store = TranscriptStore.open_file(path)
    conversation = store.get_conversation(str(recorder.conversation_id))
    assert [turn.parent for turn in conversation.turns] == [None, first.id, first.id]
    assert [turn.text for turn in conversation.get_branch()] == ["a", "c"]
    store.delete_turn(conversation.id, str(conversation.head))
    assert [turn.text for turn in store.get_conversation(conversation.id).get_branch()] == ["a"]


def test_each_of_several_samples_is_kept_once_as_soon_as_it_is_complete(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    replies = [ScriptedReply(["41"]), ScriptedReply(["42"]), ScriptedReply(["42"]), ScriptedReply(["43"], delay_s=0.5)]
    pipeline, params = TurnPipeline(ScriptedBackend(replies), recorder), SamplingParams(seed=7)
    for event in pipeline.run(TurnHistory(prompt="How many?"), params, CancelToken(), vote=VoteConfig(4)):
        if isinstance(event, SampleFinished) and event.index == 2:
            until(lambda: sorted(turn.text for turn in turns_in(path)) == ["", "41", "42", "42"])
    recorder.close()
    store = TranscriptStore.open_file(path)
    kept = store.get_conversation(recorder.conversation_id or "")
    store.close()
    assert [(turn.text, turn.seed) for turn in kept.get_branch()] == [("42", 8)]
    assert sorted(turn.text for turn in kept.turns) == ["41", "42", "42", "43"]
    assert {turn.parent for turn in kept.turns} == {None}


def test_several_replies_without_a_vote_are_kept_once_too(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    asked = MessageHistory((Message(Role.USER, "How many?"),))
    pipeline = TurnPipeline(ScriptedBackend([ScriptedReply(["41"]), ScriptedReply(["42"])]), recorder)
    list(pipeline.run(asked, SamplingParams(seed=7), CancelToken(), n=2))
    recorder.close()
    assert sorted(turn.text for turn in turns_in(path)) == ["41", "42"]


def test_a_store_that_cannot_be_had_is_told_once_and_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    recorder = Recorder(lambda: TranscriptStore.open_file(tmp_path / "data" / "logs.db"))
    events = speak(recorder, ScriptedReply(["one"]), prompts=2)
    assert [event.text for event in events if isinstance(event, TextDelta)] == ["one", "one"]
    assert sum(isinstance(event, TranscriptUnavailable) for event in events) == 1
    assert recorder.conversation_id is None
    (tmp_path / "data").unlink()
    speak(recorder, ScriptedReply(["two"]))
    assert [turn.text for turn in turns_in(tmp_path / "data" / "logs.db")] == ["one", "one", "two"]


def test_a_store_that_locks_in_the_middle_is_told_once_and_written_later(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path, busy_timeout_s=0.05))
    events = ask(recorder, "p", ScriptedReply(["a ", "b"]))
    seen = [next(events)]
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        seen += events
        other.execute("ROLLBACK")
    assert sum(isinstance(event, TranscriptUnavailable) for event in seen) == 1
    assert isinstance(seen[-1], TurnFinished)
    speak(recorder, ScriptedReply(["c"]))
    assert [turn.text for turn in turns_in(path)] == ["a b", "c"]


def test_a_conversation_that_is_removed_meanwhile_stays_removed(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    events = ask(recorder, "p", ScriptedReply(["a"]))
    next(events)
    store = TranscriptStore.open_file(path)
    store.delete_conversations([str(store.latest_id())])
    assert sum(isinstance(event, TranscriptUnavailable) for event in events) == 1
    assert store.list_conversations() == []


def test_a_full_disk(path: Path) -> None:
    store = TranscriptStore.open_file(path)
    with store.database.autocommit() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages}")
    events = speak(Recorder(lambda: store), ScriptedReply(["long " * 20_000]))
    (told,) = [event for event in events if isinstance(event, TranscriptUnavailable)]
    assert "full" in told.reason
    assert isinstance(events[-1], TurnFinished)


WRITER = """
import sys, time
from pathlib import Path
from phichat.events import *
from phichat.types import *
from phichat.transcript.recorder import Recorder
from phichat.transcript.store import TranscriptStore

def events():
    yield TurnStarted("the prompt", None, SamplingParams())
    for number in range(int(sys.argv[2])):
        yield TextDelta(f"word{number} ")
        time.sleep(0.01)
    if sys.argv[3] == "stall":
        time.sleep(60)
    yield TurnFinished("the whole", "", FinishReason.STOP)

recorder = Recorder(lambda: TranscriptStore.open_file(Path(sys.argv[1])))
for event in recorder.record_events(events()):
    if isinstance(event, TranscriptUnavailable):
        sys.exit(event.reason)
    if isinstance(event, TextDelta):
        sys.stdout.write(event.text)
        sys.stdout.flush()
"""


def test_after_kill_9_there_is_what_there_was(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path), "30", "stall"], stdout=subprocess.PIPE) as process:
        until(lambda: path.exists() and bool(turns_in(path)) and "word29" in turns_in(path)[0].text)
        assert turns_in(path)[0].live
        process.kill()
    (turn,) = turns_in(path)
    assert turn.is_cut_off
    assert turn.text.startswith("word0 word1 ")
    store = TranscriptStore.open_file(path)
    assert [hit.turn for hit in store.search_turns("word29", SearchFilters(), 5).hits] == [turn.id]
    assert turns_in(path)[0].text == turn.text, "what was found is shown as it was"
    with store.database.autocommit() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_several_processes_write_at_once(path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(path), "40", "end"]
    writers = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    assert [writer.wait(60) for writer in writers] == [0] * 4
    store = TranscriptStore.open_file(path)
    conversations = [store.get_conversation(one.id) for one in store.list_conversations()]
    assert [turn.text for one in conversations for turn in one.turns] == ["the whole"] * 4
