"""Histories fitted to a context by whole turns."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.chat.context import Turn, fit
from phichat.errors import ContextOverflow
from phichat.messages import Message, Role


def words(messages: Sequence[Message]) -> int:
    return sum(len(message.text.split()) + 2 for message in messages)


turns = st.lists(st.builds(Turn, st.text("a ", max_size=40), st.text("b ", max_size=40)), max_size=12)


@given(turns, st.text("p ", min_size=1, max_size=30), st.integers(8, 200), st.none() | st.integers(1, 300))
def test_what_is_sent_fits_and_is_the_newest(
    history: list[Turn], prompt: str, n_ctx: int, max_tokens: int | None
) -> None:
    try:
        fitted = fit("be brief", history, prompt, words, n_ctx, max_tokens)
    except ContextOverflow as overflow:
        assert overflow.prompt_tokens >= n_ctx
        return
    assert fitted.tokens == words(fitted.messages) < n_ctx
    assert fitted.messages[0] == Message(Role.SYSTEM, "be brief")
    assert fitted.messages[-1] == Message(Role.USER, prompt)
    kept = [message for turn in history[fitted.dropped_turns :] for message in turn.messages()]
    assert list(fitted.messages[1:-1]) == kept


@given(turns, st.integers(20, 200))
def test_no_turn_is_left_out_that_would_have_fitted(history: list[Turn], n_ctx: int) -> None:
    fitted = fit(None, history, "p", words, n_ctx, None)
    if fitted.dropped_turns:
        one_more = history[fitted.dropped_turns - 1 :]
        messages = [message for turn in one_more for message in turn.messages()]
        assert words([*messages, Message(Role.USER, "p")]) > n_ctx - n_ctx // 4


def test_both_numbers_are_told() -> None:
    with pytest.raises(ContextOverflow, match="52 tokens and the context holds 40"):
        fit(None, [], "w " * 50, words, 40, None)


def test_a_prompt_that_leaves_little_room_is_still_sent() -> None:
    assert fit(None, [Turn("a", "b")], "w " * 30, words, 40, None).dropped_turns == 1
