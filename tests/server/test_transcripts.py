"""Requests in the transcripts."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.paths import Paths
from phichat.server.app import RecorderFactory
from phichat.server.transcripts import ConversationTracker
from phichat.transcript.records import ConversationRecord
from phichat.transcript.store import TranscriptStore
from phichat.types import FinishReason
from support.api_server import HELLO, Served, request, serving, wait_until

SAID = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


def kept(paths: Paths) -> RecorderFactory:
    return ConversationTracker(lambda: TranscriptStore.open_file(paths.logs)).open_recorder


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    backend = ScriptedBackend(
        [ScriptedReply(["Hello"]), ScriptedReply(["```python\nimport requests\n```\n"]), ScriptedReply(["Bye"])]
    )
    with serving(tmp_path, lambda config, paths: backend, kept=kept) as served:
        yield served


def conversations(folder: Path) -> list[ConversationRecord]:
    """The oldest first."""
    store = TranscriptStore.open_file(folder / "data" / "logs.db")
    try:
        return [store.get_conversation(one.id) for one in reversed(store.list_conversations())]
    finally:
        store.close()


def test_nothing_is_kept_unless_it_is_wanted(tmp_path: Path) -> None:
    with serving(tmp_path, lambda config, paths: ScriptedBackend([ScriptedReply(["Hello"])])) as served:
        assert served.post(HELLO)[0] == 200
    assert not (tmp_path / "data" / "logs.db").exists()


def test_a_conversation_that_goes_on_is_kept_once(served: Served, tmp_path: Path) -> None:
    served.post({"messages": SAID})
    more = [*SAID, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Code?"}]
    served.post({"messages": more})
    served.post({"messages": SAID})  # asked once more is a new conversation
    first, second = conversations(tmp_path)
    assert [(turn.prompt, turn.text) for turn in first.get_branch()] == [
        ("Hi", "Hello"),
        ("Code?", "```python\nimport requests\n```\n"),
    ]
    assert {turn.system for turn in first.turns} == {"Be kind."}
    assert first.turns[1].code is not None
    assert first.turns[1].model is not None
    assert [turn.text for turn in second.turns] == ["Bye"]


def test_what_was_said_elsewhere_is_kept_before_it(served: Served, tmp_path: Path) -> None:
    said = [
        {"role": "assistant", "content": "Welcome."},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    served.post({"messages": said})
    (record,) = conversations(tmp_path)
    assert [(turn.prompt, turn.text) for turn in record.get_branch()] == [
        ("", "Welcome."),
        ("a", ""),
        ("b", "c"),
        ("d", "Hello"),
    ]
    assert record.title == "a"


def test_an_answer_whose_client_left_is_kept_as_far_as_it_came(tmp_path: Path) -> None:
    backend = ScriptedBackend([ScriptedReply(["word "] * 500, delay_s=0.01)])
    with serving(tmp_path, lambda config, paths: backend, kept=kept) as served, served.connect() as connection:
        connection.sendall(request(served.port, {**HELLO, "stream": True}))
        wait_until(lambda: len(backend.prompts) == 1)
        assert connection.recv(99)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    (record,) = conversations(tmp_path)
    assert record.turns[0].finish_reason is FinishReason.CANCELLED
    assert record.turns[0].prompt == "Hi"


def test_a_store_that_cannot_be_written_takes_no_answer_away(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(parents=True)
    (tmp_path / "data" / "logs.db").mkdir()
    with serving(tmp_path, lambda config, paths: ScriptedBackend([ScriptedReply(["Hello"])]), kept=kept) as served:
        assert served.post(HELLO)[2]["choices"][0]["message"]["content"] == "Hello"
        assert any("isn't being saved" in line for line in served.told)
