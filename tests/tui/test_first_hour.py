"""What somebody meets who has never used the chat: the first screen, the help, the palette, themes, sizes."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console
from textual.pilot import Pilot
from textual.widgets import OptionList

import phichat.tui
from phichat.chat.slash_commands import COMMANDS
from phichat.engine.scripted_backend import ScriptedReply
from phichat.services.model_catalog import CatalogEntry
from phichat.tui.app import PhichatApp
from phichat.tui.help import build_help, format_keys, iter_sections
from phichat.tui.screens.chat import ChatScreen
from phichat.tui.screens.model_picker import ModelPicker
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import PromptInput
from phichat.tui.widgets.welcome import EXAMPLE_PROMPTS
from support import tui_harness

Play = Callable[[Pilot[None]], Awaitable[object]]


def play(
    home: Path,
    act: Play,
    size: tuple[int, int] = (80, 30),
    offers: Sequence[CatalogEntry] = tui_harness.OFFERS,
    replies: Sequence[ScriptedReply] = (),
) -> PhichatApp:
    async def run() -> PhichatApp:
        app = PhichatApp(tui_harness.desk(home, *replies, offers=offers))
        async with app.run_test(size=size, notifications=True) as pilot:
            await tui_harness.until(pilot, "CPU")
            await act(pilot)
        return app

    return asyncio.run(run())


@pytest.mark.parametrize("size", [(100, 35), (60, 24)])
def test_the_first_screen_shows_what_can_be_tried_and_what_is_here(tmp_path: Path, size: tuple[int, int]) -> None:
    async def act(pilot: Pilot[None]) -> None:
        shown = await tui_harness.until(pilot, "● phi-4-mini  fits")
        words = " ".join(shown.split())
        assert all(prompt in words for prompt in EXAMPLE_PROMPTS)
        assert "○" not in shown

    play(tmp_path, act, size)


def test_a_number_stays_a_number_when_more_is_typed(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await pilot.press("1", "+", "1", "enter")
        await tui_harness.until(pilot, "It is so.")
        assert pilot.app.chat_service.get_backend().prompts[-1][-1].text == "1+1"  # type: ignore[attr-defined]

    play(tmp_path, act)


def test_a_click_on_a_prompt_fills_it_in(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await tui_harness.until(pilot, EXAMPLE_PROMPTS[1])
        await pilot.click("#try", offset=(5, 1))
        await pilot.pause()
        assert pilot.app.screen.query_one(PromptInput).text == EXAMPLE_PROMPTS[1]

    play(tmp_path, act)


def test_without_a_model_one_that_fits_is_offered(tmp_path: Path) -> None:
    there = [
        CatalogEntry("phi-4", installed=False, fits=False, summary="9.1 GB"),
        CatalogEntry("phi-2", installed=False, fits=True, summary="1.8 GB"),
    ]

    async def act(pilot: Pilot[None]) -> None:
        shown = await tui_harness.until(pilot, "○ phi-2  fits")
        assert "No model installed yet" in shown
        pilot.app.screen.query_one("#models", OptionList).focus()
        await pilot.press("down", "enter")
        await pilot.pause()
        assert isinstance(pilot.app.screen, ModelPicker)
        await tui_harness.until(pilot, "○ phi-2  fits")
        await pilot.press("enter")
        await tui_harness.until(pilot, "phi-2 downloaded")

    play(tmp_path, act, offers=there)


@pytest.mark.parametrize(("answer", "then"), [("y", "phi-4 downloaded"), ("n", "○ phi-4  does not fit")])
def test_a_model_that_does_not_fit_is_only_downloaded_after_a_yes(tmp_path: Path, answer: str, then: str) -> None:
    there = [CatalogEntry("phi-4", installed=False, fits=False)]

    async def act(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+o")
        await tui_harness.until(pilot, "○ phi-4  does not fit")
        await pilot.press("enter")
        shown = await tui_harness.until(pilot, "Download it anyway?")
        assert "phi-4 needs 9.1 GB. Choose a smaller model." in shown
        assert "licence mit" in shown
        await pilot.press(answer)
        await tui_harness.until(pilot, then)

    play(tmp_path, act, offers=there)


def test_every_key_that_is_bound_is_in_the_help() -> None:
    with Console(width=100) as console, console.capture() as captured:
        console.print(build_help([*ChatScreen.BINDINGS, *PhichatApp.BINDINGS]))
    text = " ".join(captured.get().split())
    listed = [
        binding for _, bindings in iter_sections([*ChatScreen.BINDINGS, *PhichatApp.BINDINGS]) for binding in bindings
    ]
    assert all(format_keys(binding).split(",")[0] in text and binding.description in text for binding in listed)
    assert all(command.description in text for command in COMMANDS)
    bound = {
        (binding.key, binding.description)
        for module in pkgutil.walk_packages(phichat.tui.__path__, "phichat.tui.")
        for owner in vars(importlib.import_module(module.name)).values()
        # Dialogs ask something and say with which keys it is answered.
        if isinstance(owner, type) and not owner.__module__.endswith("dialogs")
        for binding in vars(owner).get("BINDINGS", [])
        if owner.__module__.startswith("phichat.")
    }
    assert len(bound) > 40
    assert bound <= {(binding.key, binding.description) for binding in listed}


def test_no_key_does_two_things_at_one_place() -> None:
    for _, bindings in iter_sections([*ChatScreen.BINDINGS, *PhichatApp.BINDINGS]):
        keys = [key for binding in bindings for key in format_keys(binding).split(", ")]
        assert len(keys) == len(set(keys))


def test_the_palette_finds_what_keys_and_commands_do(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None]) -> None:
        titles = [command.title for command in pilot.app.get_system_commands(pilot.app.screen)]
        assert all(any(f"(/{command.name})" in title for title in titles) for command in COMMANDS)
        assert len(titles) == len(set(titles))
        await pilot.press("ctrl+p", *"unload the")
        await tui_harness.until(pilot, "Unload the model")
        await pilot.press("enter")
        await tui_harness.until(pilot, "unloaded")
        await pilot.press(*"Go", "enter")
        await tui_harness.until(pilot, "It is so.")

    play(tmp_path, act)


def test_the_theme_that_was_chosen_is_there_again(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None]) -> None:
        pilot.app.theme = "textual-light"
        await pilot.pause()

    play(tmp_path, act)

    async def look(pilot: Pilot[None]) -> None:
        assert pilot.app.theme == "textual-light"

    play(tmp_path, look)


def test_without_colours_everything_is_still_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def act(pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+o")
        await tui_harness.until(pilot, "does not fit")
        await pilot.press("escape", *"Go", "enter")
        await tui_harness.until(pilot, "⚠ needs pandas")
        for line in pilot.app.screen._compositor.render_strips():
            for segment in line:
                for colour in (segment.style and segment.style.color, segment.style and segment.style.bgcolor):
                    red, green, blue = colour.get_truecolor() if colour else (0, 0, 0)
                    assert red == green == blue

    play(tmp_path, act, replies=[ScriptedReply([tui_harness.WARNED])])


def test_page_up_scrolls_while_the_prompt_keeps_the_keys(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None]) -> None:
        await pilot.press(*"Go", "enter")
        await tui_harness.until(pilot, "line 99")
        await pilot.press(*"half", "pageup")
        await tui_harness.until(pilot, "line 80")
        await pilot.press("ctrl+home")
        await tui_harness.until(pilot, "line 1\n")
        await pilot.press("ctrl+end", *"way")
        await tui_harness.until(pilot, "line 99")
        assert pilot.app.screen.query_one(PromptInput).text == "halfway"
        assert not isinstance(pilot.app.focused, ConversationView)

    play(tmp_path, act, replies=[ScriptedReply(["\n\n".join(f"line {number}" for number in range(100))])])


def test_enter_means_what_is_typed_even_before_it_was_found(tmp_path: Path) -> None:
    async def act(pilot: Pilot[None]) -> None:
        tui_harness.keep(pilot.app.chat_service)  # type: ignore[attr-defined]
        await pilot.press("f2", *"grey", "enter")
        await tui_harness.until(pilot, "Graphite")

    play(tmp_path, act)
