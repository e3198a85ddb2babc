"""Pages that are generated are what their generators write."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_placements_are_the_planners() -> None:
    written = runpy.run_path(str(ROOT / "tools" / "placement_table.py"))["document"]()
    assert (ROOT / "docs" / "placement.md").read_text("utf-8") == written, "run tools/placement_table.py"


def test_the_tasks_are_those_that_are_played() -> None:
    written = runpy.run_path(str(ROOT / "tools" / "tui_tasks.py"))["document"]()
    assert (ROOT / "docs" / "tui-tasks.md").read_text("utf-8") == written, "run tools/tui_tasks.py"
