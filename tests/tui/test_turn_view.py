"""What is shown of a turn."""

from __future__ import annotations

from phichat.events import TextDelta, TurnFinished
from phichat.tui.render.blocks import ItemKind, RenderItem
from phichat.tui.turn_view import TurnView
from phichat.types import FilePart, FinishReason, TextPart, Timings, Usage


def finished(text: str, *notices: str) -> TurnFinished:
    return TurnFinished(text, "", FinishReason.STOP, Usage(), Timings(), 4096, notices=notices)


def test_what_a_server_remarks_on_a_turn_is_shown() -> None:
    turn = TurnView("Why?")
    turn.apply_event(finished("So.", "the server left out top-k"))
    assert RenderItem(ItemKind.NOTICE, "the server left out top-k") in turn.render_items()


def test_a_turn_that_has_forgotten_its_blocks_has_them_again_when_it_is_shown() -> None:
    turn = TurnView("Why?")
    turn.apply_event(TextDelta("# Title\n\n```python\nimport os\n```\n\nAnd so"))
    before = turn.render_items()
    turn.drop_cache()
    assert turn.render_items() == before


def test_an_attached_file_is_one_line_until_it_is_unfolded() -> None:
    turn = TurnView("Sum up", parts=[TextPart("Sum up"), FilePart("notes.txt", 3_100, "milk\n")])
    line = RenderItem(ItemKind.META, "▸ notes.txt · 3.1 kB")
    assert turn.render_items() == [RenderItem(ItemKind.PROMPT, "Sum up"), line]
    turn.toggle_fold()
    assert RenderItem(ItemKind.PROMPT, "milk") in turn.render_items()
