"""How some screens look, compared with the drawings beside this file.

After a change that is meant, look at the report and run `pytest tests/tui/test_screens.py --snapshot-update`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from textual.pilot import Pilot

from phichat.engine.scripted_backend import ScriptedReply
from support import tui_harness

Compare = Callable[..., bool]
Play = Callable[[Pilot[None]], Awaitable[None]]


async def first(pilot: Pilot[None]) -> None:
    """Nothing was said yet."""
    await tui_harness.until(pilot, "smollm2-135m  fits")


async def warned(pilot: Pilot[None]) -> None:
    """An answer with code that was warned about."""
    await pilot.press(*"Total it", "enter")
    await tui_harness.until(pilot, "34 tokens")
    await pilot.press("ctrl+down")


async def searched(pilot: Pilot[None]) -> None:
    """The sidebar with what was found, and the conversation it was found in."""
    await pilot.press("f2", *"scatter", "enter")
    await tui_harness.until(pilot, "Rayleigh scattering.")


async def models(pilot: Pilot[None]) -> None:
    """The model switcher."""
    await pilot.press("ctrl+o")
    await tui_harness.until(pilot, "completes texts")


async def keys(pilot: Pilot[None]) -> None:
    """The help."""
    await pilot.press("f1")
    await tui_harness.until(pilot, "Keys and commands")


@pytest.mark.parametrize(
    ("play", "size", "theme"),
    [
        (first, (100, 30), "textual-dark"),
        (first, (60, 24), "textual-light"),
        (warned, (100, 30), "textual-dark"),
        (warned, (60, 24), "high-contrast"),
        (searched, (100, 30), "textual-light"),
        (models, (60, 24), "textual-dark"),
        (keys, (60, 24), "high-contrast"),
    ],
    ids=lambda value: (
        value.__name__ if callable(value) else value if isinstance(value, str) else "x".join(map(str, value))
    ),
)
def test_it_looks_as_it_did(
    snap_compare: Compare, tmp_path: Path, play: Play, size: tuple[int, int], theme: str
) -> None:
    with tui_harness.clock_of_utc():
        desk = tui_harness.desk(tmp_path, ScriptedReply(re.split(r"(?<= )", tui_harness.WARNED)))
        tui_harness.keep(desk)
        app = tui_harness.DrawnApp(desk)
        app.theme = theme

        async def before(pilot: Pilot[None]) -> None:
            await tui_harness.until(pilot, "CPU")
            await play(pilot)
            app.steady()
            await tui_harness.settle(pilot)

        assert snap_compare(app, terminal_size=size, run_before=before)
