"""Guesses from what was said before."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from phichat.engine.worker.ngram_speculation import NgramProposer

CHEAP = ((2, 1.1), (3, 1.2), (5, 1.4))
DEAR = ((2, 1.9), (3, 2.9), (5, 4.9))
TEXT = list(range(10, 60))


def told(drafter: NgramProposer, tokens: Sequence[int]) -> NgramProposer:
    for token in tokens:
        drafter.add_token(token)
    return drafter


def test_a_quotation_is_guessed_and_the_more_the_longer_it_lasts() -> None:
    assert not NgramProposer(TEXT, CHEAP).propose(10)
    short = told(NgramProposer(TEXT, CHEAP), [1, *TEXT[:4]]).propose(10)
    assert list(short) == TEXT[4 : 4 + len(short)]
    long = told(NgramProposer(TEXT, CHEAP), [1, *TEXT[:30]]).propose(10)
    assert list(long) == TEXT[30:34]


def test_nothing_is_guessed_where_a_batch_costs_what_its_tokens_do() -> None:
    assert not told(NgramProposer(TEXT, DEAR), TEXT[:30]).propose(10)
    assert not told(NgramProposer(TEXT, ()), TEXT[:30]).propose(10)


def test_guesses_that_fail_are_given_up_and_taken_up_again() -> None:
    drafter = NgramProposer([], CHEAP)
    for other in range(100, 140):
        told(drafter, [1, 2, 3, other])
    assert not told(drafter, [1, 2, 3]).propose(10)
    told(drafter, TEXT)
    assert told(drafter, TEXT[:30]).propose(10)


def test_no_more_is_guessed_than_there_is_room_for() -> None:
    drafter = told(NgramProposer(TEXT, CHEAP), TEXT[:30])
    assert [len(drafter.propose(room)) for room in (-1, 0, 1, 2, 3, 4)] == [0, 0, 1, 2, 2, 4]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(-2, 6))
def test_what_is_guessed_stands_in_the_text_behind_the_same_tokens(
    prompt: list[int], reply: list[int], room: int
) -> None:
    guess = list(told(NgramProposer(prompt, CHEAP), reply).propose(room))
    text = [*prompt, *reply]
    assert len(guess) <= max(0, room)
    if guess:
        wanted = [*text[-3:], *guess]
        assert any(text[at : at + len(wanted)] == wanted for at in range(len(text)))
