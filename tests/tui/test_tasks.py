"""The twenty tasks of docs/tui-tasks.md, played."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual.pilot import Pilot

from phichat.tui.app import PhichatApp
from support import tui_harness
from support.tui_tasks import TASKS, Sees, Task, Text


@pytest.mark.parametrize("task", TASKS, ids=[task.name for task in TASKS])
def test_it_takes_the_keys_that_are_written_down(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A terminal that copies, and no clipboard of this machine.
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("SSH_TTY", "/dev/pts/0")
    monkeypatch.delenv("TERM_PROGRAM", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("buy milk, call Ada, water the plants\n")

    async def play() -> None:
        desk = tui_harness.desk(tmp_path / "home", *task.replies)
        tui_harness.keep(desk)
        app = PhichatApp(desk)
        async with app.run_test(size=(100, 32), notifications=True) as pilot:
            await tui_harness.until(pilot, "CPU")
            for prompt in task.asked:
                await pilot.press(*prompt, "enter")
                await _answered(pilot)
            for step in task.steps:
                match step:
                    case Text(text=text):
                        await pilot.press(*text)
                    case Sees(text=text):
                        await tui_harness.until(pilot, text)
                    case _:
                        await pilot.press(step)
            await pilot.pause()
            assert task.came_true(app, tmp_path)

    asyncio.run(play())


def test_none_takes_more_than_four_keys_beyond_its_text() -> None:
    assert len(TASKS) == 20
    assert max(len(task.keys) for task in TASKS) <= 4


async def _answered(pilot: Pilot[None]) -> None:
    await pilot.pause()
    screen = pilot.app.screen
    while screen.context.is_busy:  # type: ignore[attr-defined]
        await pilot.pause(0.02)
