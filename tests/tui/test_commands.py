"""What is typed behind a slash or an @, however wrong it is: a word about it, and the chat goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual.pilot import Pilot

from phichat.engine.scripted_backend import ScriptedReply
from phichat.services.chat_service import ChatService
from phichat.tui.app import PhichatApp
from phichat.tui.screens.chat import ChatScreen
from phichat.types import FilePart, TextPart
from support.tui_harness import desk, keep, seen, until

CODE = "Like this:\n\n```python\nimport pandas\n```\n\n```python\nimport numpy\n```\n"

WRONG = [
    ("/read", "/read needs a file"),
    ("/read nowhere.txt", "nowhere.txt cannot be read"),
    ("/read ~nobody-here/x", "cannot be read"),
    ("/read a\0b", "isn't a valid file name"),
    ("/read /", "cannot be read"),
    ("/save", "/save needs a file"),
    ("/save ~nobody-here", "Saved ~nobody-here"),
    ("/save " + "n" * 400, "too long"),
    ("/save a\0b", "Can't write"),
    ("/export pdf", "Unknown format"),
    ("/export md " + "n" * 400, "too long"),
    ("/fork 9", "No turn"),
    ("/fork one", "No turn"),
    ("/stats 0", "No turn"),
    ("/set nothing 1", "nothing"),
    ("/set temperature hot", "temperature"),
    ("/set n_ctx 512", "is set when the model loads"),
    ("/load nothing-like-it", "nothing-like-it"),
    ("/modell", "/model"),
    ("/system [bold]brief[/nothing]", "System prompt set"),
    ("/set temperature 0.25", "temperature = 0.25 from the next turn"),
]


async def said(pilot: Pilot[None], typed: str) -> None:
    """Type it at once, as a paste would."""
    screen = pilot.app.screen
    assert isinstance(screen, ChatScreen)
    screen.context.prompt.set_text("")
    screen.context.prompt.insert(typed)
    await pilot.pause(0.05)
    screen.context.prompt.is_completing = False
    await pilot.press("enter")


def play(desk: ChatService, *lines: tuple[str, str]) -> None:
    """Each line typed, and what has to be seen then."""

    async def run() -> None:
        app = PhichatApp(desk)
        async with app.run_test(size=(100, 40), notifications=True) as pilot:
            await said(pilot, "Go")
            await until(pilot, "Like this")
            for typed, then in (*lines, ("still there?", "▌ still there?")):
                while isinstance(app.screen, ChatScreen) and app.screen.context.is_busy:
                    await pilot.pause(0.02)
                app.clear_notifications()
                await said(pilot, typed)
                await until(pilot, then)

    asyncio.run(run())


def test_a_command_says_what_is_wrong_and_the_chat_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    play(desk(tmp_path, ScriptedReply([CODE])), *WRONG)


def test_an_at_sign_before_no_path_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("nowhere", "itself"):
        (tmp_path / name).symlink_to(name if name == "itself" else "gone")
    words = ["~nobody-here", "~nobody-here/", "n" * 400 + "/", "/proc/1/fd/", "[/b]", "nowh", "itse", "itself/"]
    play(desk(tmp_path, ScriptedReply([CODE])), *((f"see @{word}", f"▌ see @{word}"[:60]) for word in words))


def test_a_copy_without_any_tool_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "linux")
    monkeypatch.setenv("SSH_TTY", "/dev/pts/9")
    play(desk(tmp_path, ScriptedReply([CODE])), ("/copy", "Can't copy"))


def test_another_conversation_is_not_opened_under_a_growing_answer(tmp_path: Path) -> None:
    async def run() -> None:
        table = desk(tmp_path, ScriptedReply(["word "] * 2000, delay_s=0.005))
        keep(table)
        kept = table.transcripts.list_entries("")[0].id
        app = PhichatApp(table)
        async with app.run_test(size=(100, 40), notifications=True) as pilot:
            await said(pilot, "Go")
            await until(pilot, "word word")
            await said(pilot, f"/load {kept}")
            await until(pilot, "Still answering")
            assert "word word" in seen(pilot)
            await pilot.press("escape", "escape")
            await until(pilot, "stopped")

    asyncio.run(run())


def test_an_attached_file_is_folded_and_sent_in_full(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("buy milk\n")

    async def run() -> None:
        service = desk(tmp_path / "home", ScriptedReply([CODE]))
        app = PhichatApp(service)
        async with app.run_test(size=(100, 40), notifications=True) as pilot:
            await said(pilot, f"/read {tmp_path / 'notes.txt'}")
            await until(pilot, "⟦notes.txt: ")
            await pilot.press(*" Sum up", "enter")
            await until(pilot, "Like this")
            shown = await until(pilot, "▸ notes.txt · 0.0 kB")
            assert "buy milk" not in shown
            sent = service.get_backend().prompts[-1][-1].text  # type: ignore[attr-defined]
            assert sent == "File: notes.txt\n```txt\nbuy milk\n```\n\nSum up"
            screen = pilot.app.screen
            assert isinstance(screen, ChatScreen)
            assert [type(part) for part in screen.context.conversation.branch[-1].parts] == [FilePart, TextPart]
            await pilot.press("ctrl+t", "space")
            await until(pilot, "buy milk")

    asyncio.run(run())
