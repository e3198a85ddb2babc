"""Draw docs/screens/*.svg: the chat with scripted replies, exported by Textual.

python tools/screenshots.py [FOLDER]
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(1, str(Path(__file__).parents[1] / "tests"))

from textual.pilot import Pilot

from phichat.engine.scripted_backend import ScriptedReply
from support import tui_harness

ROOT = Path(__file__).parents[1]
SIZE = (100, 32)
Play = Callable[[Pilot[None]], Awaitable[object]]


async def welcome(pilot: Pilot[None]) -> None:
    """What a newcomer sees."""
    await tui_harness.until(pilot, "smollm2-135m  fits")


async def chat(pilot: Pilot[None]) -> None:
    """An answer with code."""
    await pilot.press(*"How do I flatten a list of lists?", "enter")
    await tui_harness.until(pilot, "quadratic")


async def warning(pilot: Pilot[None]) -> None:
    """The code check in place."""
    await pilot.press(*"Total the amounts of a CSV file by month", "enter")
    await tui_harness.until(pilot, "pip install")
    await pilot.press("ctrl+down")


async def sidebar(pilot: Pilot[None]) -> None:
    """The conversations, searched."""
    await pilot.press("f2", *"scatter")
    await tui_harness.until(pilot, "2026-02-27")
    await pilot.press("enter")
    await tui_harness.until(pilot, "Rayleigh")


async def models(pilot: Pilot[None]) -> None:
    """The model switcher."""
    await pilot.press("ctrl+o")
    await tui_harness.until(pilot, "completes texts")


SCREENS: dict[str, Play] = {each.__name__: each for each in (welcome, chat, warning, sidebar, models)}


async def picture(play: Play, size: tuple[int, int] = SIZE, theme: str = "textual-dark") -> str:
    """One screen as SVG."""
    with TemporaryDirectory() as home, tui_harness.clock_of_utc():
        text = tui_harness.WARNED if play is warning else tui_harness.FLATTEN
        desk = tui_harness.desk(Path(home), ScriptedReply(re.split(r"(?<= )", text)))
        tui_harness.keep(desk)
        app = tui_harness.DrawnApp(desk)
        app.theme = theme
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await play(pilot)
            await pilot.pause(0.2)
            app.steady()
            await pilot.pause()
            return app.export_screenshot(simplify=True)


def main(folder: Path) -> None:
    """Write them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, play in SCREENS.items():
        (folder / f"{name}.svg").write_text(asyncio.run(picture(play)), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "screens")
