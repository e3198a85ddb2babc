"""Histories fitted to a context by whole turns."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.chat.context_window import Turn, TurnHistory
from phichat.errors import ContextOverflow
from phichat.types import Message, Role


def words(messages: Sequence[Message]) -> int:
    return sum(len(message.text.split()) + 2 for message in messages)


turns = st.lists(st.builds(Turn, st.text("a ", max_size=40), st.text("b ", max_size=40)), max_size=12)


@settings(deadline=None)
@given(turns, st.text("p ", min_size=1, max_size=30), st.integers(8, 200), st.none() | st.integers(1, 300))
def test_what_is_sent_fits_and_is_the_newest(
    history: list[Turn], prompt: str, n_ctx: int, max_tokens: int | None
) -> None:
    try:
        fitted = TurnHistory("be brief", history, prompt).fit(words, n_ctx, max_tokens)
    except ContextOverflow as overflow:
        assert overflow.prompt_tokens >= n_ctx
        return
    assert fitted.tokens == words(fitted.messages) < n_ctx
    assert fitted.messages[0] == Message(Role.SYSTEM, "be brief")
    assert fitted.messages[-1] == Message(Role.USER, prompt)
    kept = [message for turn in history[fitted.dropped_turns :] for message in turn.to_messages()]
    assert list(fitted.messages[1:-1]) == kept


@given(turns, st.text("p ", min_size=1, max_size=30), st.integers(20, 200))
def test_no_more_is_left_out_than_makes_room_for_some_turns(history: list[Turn], prompt: str, n_ctx: int) -> None:
    try:
        fitted = TurnHistory(None, history, prompt).fit(words, n_ctx, None)
    except ContextOverflow:
        return
    room = n_ctx - n_ctx // 4
    sizes = [words(turn.to_messages()) for turn in history]
    alone = words([Message(Role.USER, prompt)])
    fitting = [dropped for dropped in range(len(history) + 1) if alone + sum(sizes[dropped:]) <= room]
    needed = min(fitting, default=len(history))
    assert fitted.dropped_turns >= needed
    # What could have stayed is at most three quarters of what there is room for, and never the last turn.
    assert sum(sizes[needed : fitted.dropped_turns]) <= 0.75 * max(0, room - alone)
    if needed == 0 or needed < len(history):
        assert fitted.dropped_turns < max(1, len(history))


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=80), st.integers(250, 500), st.booleans())
def test_a_growing_conversation_is_cut_once_for_each_quarter_of_the_context(
    sizes: list[tuple[int, int]], n_ctx: int, unbounded: bool
) -> None:
    history: list[Turn] = []
    cuts = []
    for asked, answered in sizes:
        fitted = TurnHistory("be brief", history, "w " * asked).fit(words, n_ctx, None if unbounded else 20)
        cuts.append(fitted.dropped_turns)
        history.append(Turn("w " * asked, "x " * answered))
    assert cuts == sorted(cuts)
    grown = sum(words(turn.to_messages()) for turn in history)
    assert len(set(cuts)) <= 1 + grown // (n_ctx // 4)


def test_a_huge_turn_is_left_out_only_when_it_must_be() -> None:
    small, huge = Turn("w " * 6, "x"), Turn("w " * 55, "x")
    for before in range(8):
        fitted = TurnHistory(None, [*[small] * before, huge, small], "p").fit(words, 120, None)
        assert fitted.messages[-5:-3] == huge.to_messages()
    assert TurnHistory(None, [huge, huge], "p").fit(words, 120, None).dropped_turns == 1


def test_a_larger_context_takes_in_again_what_was_left_out() -> None:
    history = [Turn("w " * 10, "x " * 10)] * 20
    assert TurnHistory(None, history, "p").fit(words, 200, None).dropped_turns > 10
    assert TurnHistory(None, history, "p").fit(words, 800, None).dropped_turns == 0


def test_both_numbers_are_told() -> None:
    with pytest.raises(ContextOverflow, match="52 tokens, but the context holds 40"):
        TurnHistory(None, [], "w " * 50).fit(words, 40, None)


def test_a_prompt_that_leaves_little_room_is_still_sent() -> None:
    assert TurnHistory(None, [Turn("a", "b")], "w " * 30).fit(words, 40, None).dropped_turns == 1
