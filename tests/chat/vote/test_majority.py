"""Which reply stands for most, and what is said of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.cancel import CancelToken
from phichat.chat.context_window import TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.chat.vote.answer_extraction import AnswerKind
from phichat.chat.vote.majority import VoteConfig, format_result, group_answers
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed
from phichat.events import AnswerGroup, SampleFinished, TextDelta, TurnFinished, VoteResult
from phichat.types import FinishReason, SamplingParams

QUESTION = TurnHistory(prompt="How many?")


def vote(texts: Sequence[str], by: AnswerKind = AnswerKind.AUTO, asked: int | None = None) -> VoteResult:
    by, groups = group_answers(texts, by)
    return VoteResult(by, asked or len(texts), groups, groups[0].samples[0] if groups else 0)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["42", "It is 42.", "41", "no idea", "**42.0**"]), min_size=1), st.sampled_from(AnswerKind)
)
def test_every_sample_is_in_one_group_and_the_largest_comes_first(texts: list[str], by: AnswerKind) -> None:
    _, groups = group_answers(texts, by)
    assert sorted(number for group in groups for number in group.samples) == list(range(len(texts)))
    answered = [group for group in groups if group.answer is not None]
    order = [(-len(group.samples), group.samples[0]) for group in answered]
    assert order == sorted(order)
    assert tuple(groups[: len(answered)]) == tuple(answered)
    assert 0 <= vote(texts, by).agreement <= 1


@pytest.mark.parametrize(
    ("texts", "by"),
    [
        (["42", "The answer is 7.", "So x = 12"], AnswerKind.NUMBER),
        (["**B**", "The answer is C", "(a)"], AnswerKind.CHOICE),
        (["Yes.", "No, it is not", "yes"], AnswerKind.CHOICE),
        (["Paris", "The capital is Paris.", "Lyon"], AnswerKind.LINE),
        (["```python\nx = 1\n```", "Here:\n```python\nx = 2\n```", "42"], AnswerKind.CODE),
        (['{"a": 1}', '```json\n{"a": 2}\n```', "[1, 2]"], AnswerKind.JSON),
        (["", " "], AnswerKind.LINE),
        (["The war began in 1939 and ended in 1945. " * 5 + "It was long."] * 3, AnswerKind.LINE),
    ],
)
def test_the_kind_of_answer_is_what_most_look_like(texts: Sequence[str], by: AnswerKind) -> None:
    assert group_answers(texts)[0] is by


def test_a_percentage_is_what_others_take_it_for() -> None:
    assert len(group_answers(["50%", "50", "50 percent"], AnswerKind.NUMBER)[1]) == 1
    assert len(group_answers(["50%", "0.5"], AnswerKind.NUMBER)[1]) == 1
    assert len(group_answers(["50%", "5"], AnswerKind.NUMBER)[1]) == 2


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["42", "42", "41", "42", "42"], "4 of 5 samples agree (80 %): 42; 1 said 41."),
        (["42", "42.0"], "2 of 2 samples agree (100 %): 42."),
        (["42", "?", "42"], "2 of 3 samples agree (67 %): 42; 1 had nothing to compare."),
        (
            ["1", "2", "1", "2", "3"],
            "A tie: 2 of 5 samples (40 %) said 1; 2 said 2, 1 said 3. This is the one that came first.",
        ),
        (["1", "2"], "No agreement among 2 samples: 1 said 1; 1 said 2. This is the first with an answer."),
        (["?", "!"], "No agreement: none of 2 samples has a number to compare. This is the first."),
        (["1"], "There is one sample, so there is nothing to compare."),
    ],
)  # fmt: skip
def test_the_outcome_in_words(texts: Sequence[str], said: str) -> None:
    assert format_result(vote(texts, AnswerKind.NUMBER)) == said


def test_long_answers_and_many_are_cut_short() -> None:
    said = format_result(vote(["x" * 500, "x" * 500, *"abcdefg"], AnswerKind.LINE))
    assert len(said) < 200
    assert "said something else" in said
    assert format_result(vote(["1", "1"], AnswerKind.NUMBER, asked=5)).startswith(
        "Only 2 of 5 samples were complete. 2 of 2 samples agree"
    )
    assert "partial answer" in format_result(VoteResult("line", 5, (), 0))


def asked(replies: Sequence[ScriptedReply], poll: VoteConfig, params: SamplingParams | None = None) -> list[Any]:
    params = params or SamplingParams(seed=7)
    return list(TurnPipeline(ScriptedBackend(replies)).run(QUESTION, params, CancelToken(), vote=poll))


def test_the_reply_is_the_first_that_most_agree_with() -> None:
    events = asked([ScriptedReply(["41"]), ScriptedReply(["It is ", "42."]), ScriptedReply(["42"])], VoteConfig(3))
    (voted,) = [event for event in events if isinstance(event, VoteResult)]
    assert voted.groups == (AnswerGroup("42", (1, 2)), AnswerGroup("41", (0,)))
    assert (voted.answer_kind, voted.winner) == ("number", 1)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "It is 42."
    samples = [event.reply for event in events if isinstance(event, SampleFinished)]
    assert [sample.seed for sample in samples] == [7, 8, 9]
    end = events[-1]
    assert isinstance(end, TurnFinished)
    assert (end.text, end.seed, end.finish_reason) == ("It is 42.", 8, FinishReason.STOP)


def test_what_was_complete_is_counted_when_it_is_cancelled() -> None:
    session, cancel, seen = TurnPipeline(ScriptedBackend([ScriptedReply(["42"])] * 5)), CancelToken(), []
    for event in session.run(QUESTION, SamplingParams(), cancel, vote=VoteConfig(5)):
        seen.append(event)
        if sum(isinstance(event, SampleFinished) for event in seen) == 2:
            cancel.set()
    (voted,) = [event for event in seen if isinstance(event, VoteResult)]
    assert sum(len(group.samples) for group in voted.groups) == 2
    assert seen[-1].finish_reason is FinishReason.CANCELLED
    assert seen[-1].text == "42"


def test_an_engine_that_dies_takes_no_sample_along() -> None:
    crash = EngineCrashed("The engine died", "ask again")
    session, seen = TurnPipeline(ScriptedBackend([ScriptedReply(["42"]), ScriptedReply(["43"], error=crash)])), []
    with pytest.raises(EngineCrashed):
        for event in session.run(QUESTION, SamplingParams(), CancelToken(), vote=VoteConfig(3)):
            seen.append(event)
    assert [event.reply.text for event in seen if isinstance(event, SampleFinished)] == ["42", "43"]
    assert (seen[-1].text, seen[-1].finish_reason) == ("42", FinishReason.ERROR)


def test_at_temperature_0_one_sample_is_enough() -> None:
    events = asked([ScriptedReply(["42"])], VoteConfig(5), SamplingParams(temperature=0))
    assert sum(isinstance(event, SampleFinished) for event in events) == 1
    assert "temperature 0" in events[-1].notices[0]
