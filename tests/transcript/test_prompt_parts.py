"""Attached files in the store, in searches and in exports."""

import json
from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.chat.context_window import TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import TranscriptFileError
from phichat.transcript.export import ExportFormat, write_export
from phichat.transcript.native_json import read_native_json
from phichat.transcript.recorder import Recorder
from phichat.transcript.search import SearchFilters
from phichat.transcript.store import TranscriptStore
from phichat.types import FilePart, SamplingParams, TextPart, render_parts


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs.db"


def test_the_parts_of_a_prompt_are_saved_found_copied_and_exported(path: Path) -> None:
    parts = (FilePart("notes <1>.txt", 3_100, "the zebra crosses\n```\ncode\n```\n"), TextPart("Summarise this"))
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    pipeline = TurnPipeline(ScriptedBackend([ScriptedReply(["It is short."])]), recorder)
    list(pipeline.run(TurnHistory(prompt=parts), SamplingParams(), CancelToken()))
    recorder.close()
    store = TranscriptStore.open_file(path)
    saved = store.get_conversation(str(recorder.conversation_id))
    assert saved.title == "Summarise this"
    (turn,) = saved.turns
    assert turn.parts == parts
    assert turn.prompt == render_parts(parts)
    assert turn.prompt.startswith("File: notes <1>.txt\n````txt\nthe zebra crosses")
    assert [hit.turn for hit in store.search_turns("zebra", SearchFilters(), 5).hits] == [turn.id]
    copy = store.get_conversation(store.fork_conversation(saved.id, 1))
    assert copy.turns[0].parts == parts
    document = json.loads("".join(write_export([saved], ExportFormat.JSON)))
    assert list(read_native_json(document)) == [saved]
    document["conversations"][0]["turns"][0]["prompt_parts"][0]["text"] = "something else"
    with pytest.raises(TranscriptFileError):
        list(read_native_json(document))
    exports = {form: "".join(write_export([saved], form)) for form in ExportFormat}
    assert "<summary>notes &lt;1&gt;.txt · 3.1 kB</summary>" in exports[ExportFormat.MARKDOWN]
    assert "<summary>notes &lt;1&gt;.txt · 3.1 kB</summary>" in exports[ExportFormat.HTML]
    assert "--- You, attached: notes <1>.txt · 3.1 kB\nthe zebra crosses" in exports[ExportFormat.TEXT]
    assert json.loads(exports[ExportFormat.JSONL])["messages"][0]["content"] == turn.prompt
    store.close()


def test_a_prompt_without_files_has_no_parts_in_the_store_or_its_json(path: Path) -> None:
    recorder = Recorder(lambda: TranscriptStore.open_file(path))
    pipeline = TurnPipeline(ScriptedBackend([ScriptedReply(["x"])]), recorder)
    list(pipeline.run(TurnHistory(prompt="only text"), SamplingParams(), CancelToken()))
    recorder.close()
    store = TranscriptStore.open_file(path)
    with store.database.read_transaction() as connection:
        assert connection.execute("SELECT prompt_parts FROM turn").fetchall() == [(None,)]
    saved = store.get_conversation(str(recorder.conversation_id))
    assert "prompt_parts" not in "".join(write_export([saved], ExportFormat.JSON))
    store.close()
