"""The full-screen chat, as keys and what is seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.events import Paste
from textual.pilot import Pilot

from phichat.config.settings import Config
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.chat_service import ChatService
from phichat.tui.app import PhichatApp
from phichat.tui.screens.chat import ChatScreen
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import PromptInput


def desk(home: Path, *replies: ScriptedReply, context: int = 1_000_000) -> ChatService:
    backend = ScriptedBackend(replies or [ScriptedReply(["It ", "is ", "so."])], context)
    return ChatService(AppContext(Config(), Paths(home, home, home, home)), lambda model: backend)


@asynccontextmanager
async def running(desk: ChatService, size: tuple[int, int] = (80, 30)) -> AsyncIterator[Pilot[None]]:
    app = PhichatApp(desk)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield pilot


def seen(pilot: Pilot[None]) -> str:
    """The text of the screen."""
    lines = pilot.app.screen._compositor.render_strips()
    return "\n".join(line.text.rstrip() for line in lines)


async def until(pilot: Pilot[None], text: str) -> str:
    for _ in range(100):
        await pilot.pause(0.02)
        shown = seen(pilot)
        if text in shown:
            return shown
    raise AssertionError(f"{text!r} is not to be seen in:\n{seen(pilot)}")


def run(test: object) -> None:
    asyncio.run(test)  # type: ignore[arg-type]


def test_a_prompt_is_answered_and_the_answer_is_seen(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(*"Why?", "enter")
            shown = await until(pilot, "It is so.")
            assert "Why?" in shown

    run(play())


def test_escape_stops_an_answer_and_what_was_said_stays(tmp_path: Path) -> None:
    async def play() -> None:
        slow = ScriptedReply(["word "] * 2000, delay_s=0.005)
        async with running(desk(tmp_path, slow)) as pilot:
            await pilot.press(*"Go", "enter")
            await until(pilot, "word word")
            await pilot.press("escape")
            await until(pilot, "stopped")

    run(play())


def test_an_answer_that_grew_is_drawn_as_one_that_is_drawn_anew(tmp_path: Path) -> None:
    words = [f"word{number} " + "\n\n" * (number % 40 == 39) for number in range(600)]

    async def play() -> None:
        async with running(desk(tmp_path, ScriptedReply(words, delay_s=0.001))) as pilot:
            await pilot.press(*"Go", "enter")
            # Words typed and views moved while it grows.
            await pilot.press(*"typed", "pageup", "pageup")
            await asyncio.sleep(0.6)
            await pilot.press("ctrl+end", "pageup", "ctrl+end")
            await until(pilot, "600 tokens")
            views = []
            for width in (None, 60, 80):
                if width is not None:
                    await pilot.resize_terminal(width, 30)
                await pilot.press("ctrl+end")
                await pilot.pause()
                end = seen(pilot)
                await pilot.press("pageup")
                await pilot.pause()
                views.append((end, seen(pilot)))
            assert views[0] == views[2] != views[1]

    run(play())


def test_what_a_model_writes_cannot_steer_the_terminal(tmp_path: Path) -> None:
    async def play() -> None:
        evil = "\x1b]52;c;ZXZpbA==\x07 \x9b31m [bold]not markup[/] \u202e"
        async with running(desk(tmp_path, ScriptedReply([evil, f"\n```{evil}\n{evil}\n```\n"]))) as pilot:
            await pilot.press(*"Go", "enter")
            shown = await until(pilot, "[bold]not markup[/]")
            assert not set(shown) & set("\x1b\x9b\x07\u202e")

    run(play())


def test_a_large_paste_is_one_chip_and_is_sent_in_full(tmp_path: Path) -> None:
    async def play() -> None:
        table = desk(tmp_path)
        async with running(table) as pilot:
            prompt = pilot.app.screen.query_one(PromptInput)
            text = "line\n" * 200_000
            prompt.post_message(Paste(text))
            await pilot.pause()
            assert prompt.text.startswith("⟦paste 1: 1,000,000 characters")
            await pilot.press(*" end", "enter")
            await until(pilot, "It is so.")
            assert table.get_backend().prompts[-1][-1].text == text + " end"  # type: ignore[attr-defined]

    run(play())


@pytest.mark.parametrize("opens", ["f2", "ctrl+o", "ctrl+p"])
def test_what_is_pasted_into_a_search_line_is_shown_not_sent(tmp_path: Path, opens: str) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(opens)
            await pilot.pause(0.3)
            pilot.app.post_message(Paste("evil \x1b[31m \u202e words"))
            shown = await until(pilot, "evil")
            assert not set(shown) & set("\x1b\u202e")

    run(play())


def test_a_draft_survives_a_quit(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(*"half a thought", "ctrl+q")
        async with running(desk(tmp_path)) as pilot:
            assert pilot.app.screen.query_one(PromptInput).text == "half a thought"

    run(play())


def test_a_reply_made_again_stands_beside_the_first(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path, ScriptedReply(["one"]), ScriptedReply(["two"]))) as pilot:
            await pilot.press(*"Go", "enter")
            await until(pilot, "one")
            await pilot.press("ctrl+t", "r")
            await until(pilot, "2 of 2")
            await pilot.press("ctrl+t", "left")
            shown = await until(pilot, "1 of 2")
            assert "one" in shown

    run(play())


def test_an_edited_prompt_is_sent_in_its_place(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path, ScriptedReply(["one"]), ScriptedReply(["two"]))) as pilot:
            await pilot.press(*"Go", "enter")
            await until(pilot, "one")
            await pilot.press("ctrl+t", "e")
            await pilot.press(*" on", "enter")
            shown = await until(pilot, "two")
            assert "Go on" in shown
            assert "2 of 2" in shown

    run(play())


def test_a_crash_of_the_engine_is_one_sentence_and_the_next_prompt_is_answered(tmp_path: Path) -> None:
    async def play() -> None:
        crash = ScriptedReply(["so f"], error=EngineCrashed("The engine died", "ask again"))
        async with running(desk(tmp_path, crash, ScriptedReply(["fine"]))) as pilot:
            await pilot.press(*"Go", "enter")
            shown = await until(pilot, "The engine died. Ask again.")
            assert "so f" in shown
            await pilot.press(*"again", "enter")
            await until(pilot, "fine")

    run(play())


def test_a_slash_command_is_completed_and_run(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(*"/hel")
            await until(pilot, "list the commands")
            await pilot.press("enter", "enter")
            await until(pilot, "Ctrl+J")

    run(play())


def test_an_unknown_command_says_what_is_near(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(*"/modell", "enter")
            await until(pilot, "/model")

    run(play())


def test_at_sixty_columns_nothing_is_lost(tmp_path: Path) -> None:
    async def play() -> None:
        words = [f"word{index} " for index in range(60)]
        async with running(desk(tmp_path, ScriptedReply(words)), size=(60, 40)) as pilot:
            await pilot.press(*"Go", "enter")
            shown = await until(pilot, "word59")
            assert all(word.strip() in shown for word in words)

    run(play())


@pytest.mark.parametrize("keys", [["f1"], ["f2"], ["ctrl+o"], ["ctrl+p"]])
def test_every_screen_opens_and_closes(tmp_path: Path, keys: list[str]) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(*keys)
            await pilot.pause(0.2)
            await pilot.press("escape")
            await pilot.pause()
            assert isinstance(pilot.app.screen, ChatScreen)

    run(play())


def test_long_conversations_draw_only_what_is_in_view(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            from phichat.tui.turn_view import TurnView

            conversation = pilot.app.screen.query_one(ConversationView)
            conversation.display = True
            await pilot.pause()
            conversation.show_turns([TurnView(f"question {index}", text="answer\n\n" * 50) for index in range(1000)])
            await pilot.pause()
            assert "earlier turns" not in seen(pilot)
            conversation.action_jump_to_top()
            await until(pilot, "question 0")

    run(play())


def test_a_prompt_that_is_edited_can_be_sent_in_a_new_conversation(tmp_path: Path) -> None:
    async def play() -> None:
        async with running(desk(tmp_path)) as pilot:
            await pilot.press(*"Why?", "enter")
            await until(pilot, "It is so.")
            await pilot.press("ctrl+t", "e", "ctrl+n")
            await pilot.press(*" And?", "enter")
            shown = await until(pilot, "It is so.")
            assert "Why? And?" in shown
            assert "of 2" not in shown

    run(play())
