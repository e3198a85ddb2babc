"""Draft tokens from n-gram lookup."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from phichat.engine.worker.ngram_speculation import NgramProposer

CHEAP = ((2, 1.1), (3, 1.2), (5, 1.4))
COSTLY = ((2, 1.9), (3, 2.9), (5, 4.9))
TEXT = list(range(10, 60))


def feed(drafter: NgramProposer, tokens: Sequence[int]) -> NgramProposer:
    for token in tokens:
        drafter.add_token(token)
    return drafter


def test_a_quotation_is_drafted_with_growing_length() -> None:
    assert not NgramProposer(TEXT, CHEAP).propose(10)
    short = feed(NgramProposer(TEXT, CHEAP), [1, *TEXT[:4]]).propose(10)
    assert list(short) == TEXT[4 : 4 + len(short)]
    long = feed(NgramProposer(TEXT, CHEAP), [1, *TEXT[:30]]).propose(10)
    assert list(long) == TEXT[30:34]


def test_nothing_is_drafted_when_batches_cost_as_much_as_their_tokens() -> None:
    assert not feed(NgramProposer(TEXT, COSTLY), TEXT[:30]).propose(10)
    assert not feed(NgramProposer(TEXT, ()), TEXT[:30]).propose(10)


def test_drafting_stops_after_rejections_and_resumes() -> None:
    drafter = NgramProposer([], CHEAP)
    for other in range(100, 140):
        feed(drafter, [1, 2, 3, other])
    assert not feed(drafter, [1, 2, 3]).propose(10)
    feed(drafter, TEXT)
    assert feed(drafter, TEXT[:30]).propose(10)


def test_a_draft_has_at_most_max_tokens() -> None:
    drafter = feed(NgramProposer(TEXT, CHEAP), TEXT[:30])
    assert [len(drafter.propose(room)) for room in (-1, 0, 1, 2, 3, 4)] == [0, 0, 1, 2, 2, 4]


@given(st.lists(st.integers(0, 3), max_size=40), st.lists(st.integers(0, 3), max_size=40), st.integers(-2, 6))
def test_a_draft_occurs_in_the_text_after_the_same_ngram(prompt: list[int], reply: list[int], room: int) -> None:
    draft = list(feed(NgramProposer(prompt, CHEAP), reply).propose(room))
    text = [*prompt, *reply]
    assert len(draft) <= max(0, room)
    if draft:
        wanted = [*text[-3:], *draft]
        assert any(text[at : at + len(wanted)] == wanted for at in range(len(text)))
