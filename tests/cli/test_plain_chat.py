"""`phichat chat --plain` on a scripted backend: what goes to stdout, and what to stderr."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from phichat.cli.plain_chat import PlainChat
from phichat.config.settings import Config
from phichat.engine.backend import CancelToken, GenerationEvent
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.events import TurnFinished
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.transcript.records import TurnRecord
from phichat.types import FilePart, Message, SamplingParams, TextPart


class NotingBackend(ScriptedBackend):
    """Adds a notice to each turn, as a server that cuts prompts does."""

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        for event in super().generate(messages, params, cancel, conversation_id):
            yield replace(event, notices=("The server cut the prompt.",)) if isinstance(event, TurnFinished) else event


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ChatService:
    monkeypatch.chdir(tmp_path)
    context = AppContext(Config(), Paths.from_environment({"PHICHAT_HOME": str(tmp_path / "home")}))
    backend = NotingBackend(
        [ScriptedReply(["```python\nimport requests\n```\n"], reasoning=["hm"]), ScriptedReply(["Two"])]
    )
    return ChatService(context, lambda model: backend)


def run(service: ChatService, monkeypatch: pytest.MonkeyPatch, *lines: str) -> Sequence[TurnRecord]:
    """Type lines, and return the turns of the conversation in the end."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    chat = PlainChat(service, service.new_conversation())
    chat.run_until_exit()
    return chat.conversation.branch


def test_the_answer_goes_to_stdout_and_every_notice_of_the_turn_to_stderr(
    service: ChatService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    branch = run(service, monkeypatch, "Hello", "/exit", "never read")
    out, err = capsys.readouterr()
    assert "import requests" in out
    assert "hm" not in out
    assert "hm" in err
    assert "The server cut the prompt." in err
    assert "requests" in err  # the warning of the code check
    assert [turn.prompt for turn in branch] == ["Hello"]


def test_commands_change_the_conversation(
    service: ChatService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes.txt").write_text("remember this\n")
    branch = run(
        service, monkeypatch, "one", "/regen", "/read notes.txt", "two", "/context", "/set temperature 0.5", "/set",
        "/system Be brief", "/save out.py", "/export txt", "/fork 1", "/stats", "/copy", "/frok",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert [turn.prompt for turn in branch] == ["one"]  # the fork
    assert "   notes.txt: " in out
    assert "temperature = 0.5" in out
    assert "temperature = 0.5 from the next turn." in err
    assert "System prompt set; it applies from the next turn." in err
    assert "--- You, attached: notes.txt · 14 bytes\nremember this" in out
    assert Path("out.py").read_text() == "Two"
    assert "Forked. The original conversation is unchanged." in err
    assert "/copy needs the full screen. Start `phichat` without --plain." in err
    assert "Unknown command /frok. Did you mean /fork?" in err


def test_a_file_that_was_read_is_a_part_of_the_next_prompt_only(
    service: ChatService, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.py").write_text("x = 1\n")
    first, second = run(service, monkeypatch, "/read a.py", "first", "second")
    assert first.parts == (FilePart("a.py", 6, "x = 1\n"), TextPart("first"))
    assert first.prompt == "File: a.py\n```py\nx = 1\n```\n\nfirst"
    assert second.parts == (TextPart("second"),)


def test_the_last_code_block_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    context = AppContext(Config(), Paths.from_environment({"PHICHAT_HOME": str(tmp_path / "home")}))
    backend = ScriptedBackend([ScriptedReply(["```\nold = 1\n```\nor\n```\nnew = 2\n```\n"])])
    run(ChatService(context, lambda model: backend), monkeypatch, "code", "/save", "/save out.py")
    assert Path("out.py").read_text() == "new = 2\n"
    assert "/save needs a file name. Type /save PATH." in capsys.readouterr().err
