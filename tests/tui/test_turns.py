"""What is shown of a turn."""

from __future__ import annotations

from phichat.events import TextDelta, TurnFinished
from phichat.messages import FinishReason, Timings, Usage
from phichat.tui.pieces import Kind, Piece
from phichat.tui.turns import ShownTurn


def finished(text: str, *notices: str) -> TurnFinished:
    return TurnFinished(text, "", FinishReason.STOP, Usage(), Timings(), 4096, notices=notices)


def test_what_a_server_remarks_on_a_turn_is_shown() -> None:
    turn = ShownTurn("Why?")
    turn.apply(finished("So.", "the server left out top-k"))
    assert Piece(Kind.NOTICE, "the server left out top-k") in turn.pieces()


def test_a_turn_that_has_forgotten_its_blocks_has_them_again_when_it_is_shown() -> None:
    turn = ShownTurn("Why?")
    turn.apply(TextDelta("# Title\n\n```python\nimport os\n```\n\nAnd so"))
    before = turn.pieces()
    turn.forget()
    assert turn.pieces() == before
