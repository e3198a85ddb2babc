"""The check in the stream of a turn."""

import random
from collections.abc import Iterable, Iterator
from itertools import pairwise
from threading import Event as Flag

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phichat.chat.context_window import TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.codecheck.checker import check_answer
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import EngineCrashed
from phichat.events import CodeChecked, Event, TextDelta, TurnFinished
from phichat.types import FinishReason, SamplingParams

ANSWER = (
    "Two ways:\n\n1. One\n\n   ```python\n   import requests\n   ```\n\n2. Two\n\n"
    "````markdown\n```python\nimport flask\n```\n````\n\n```bash\npip install requests flask\n```\nDone.\n"
)


def turn(pieces: Iterable[str]) -> list[Event]:
    pipeline = TurnPipeline(ScriptedBackend([ScriptedReply(list(pieces))]))
    return list(pipeline.run(TurnHistory(prompt="?"), SamplingParams(), Flag()))


def split(text: str, places: Iterable[int]) -> list[str]:
    return [text[begin:end] for begin, end in pairwise([0, *sorted(set(places)), len(text)]) if begin < end]


def test_a_report_follows_the_text_that_closed_a_block() -> None:
    events = turn(["```python\nimport requests\n", "```", "\nSo.\n", "```\n1\n```\n"])
    kinds = [type(event).__name__ for event in events if isinstance(event, TextDelta | CodeChecked | TurnFinished)]
    assert kinds == ["TextDelta", "TextDelta", "TextDelta", "CodeChecked", "TextDelta", "TurnFinished"]


def test_an_answer_without_code_is_not_reported_on() -> None:
    assert not [event for event in turn(["Hello, ", "world."]) if isinstance(event, CodeChecked)]


def test_what_no_fence_closed_is_checked_at_the_end() -> None:
    events = turn(["```python\nimport requests\nimport fla"])
    assert isinstance(events[-2], CodeChecked)
    assert [package.module for package in events[-2].report.blocks[0].non_stdlib] == ["requests"]


@given(st.lists(st.integers(1, len(ANSWER) - 1)))
@settings(max_examples=60, deadline=None)
def test_the_last_report_is_that_of_the_whole_answer_in_whatever_pieces_it_comes(places: list[int]) -> None:
    events = turn(split(ANSWER, places))
    reports = [event.report for event in events if isinstance(event, CodeChecked)]
    assert reports[-1] == check_answer(ANSWER)
    assert all(one != other for one, other in pairwise(reports))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == ANSWER


def test_a_turn_that_fails_is_still_checked_and_still_fails() -> None:
    reply = ScriptedReply(["```python\nimport requests\n```\n"], error=EngineCrashed("The engine died", "ask again"))
    seen: list[Event] = []

    def consume(events: Iterator[Event]) -> None:
        for event in events:
            seen.append(event)

    pipeline = TurnPipeline(ScriptedBackend([reply]))
    with pytest.raises(EngineCrashed):
        consume(pipeline.run(TurnHistory(prompt="?"), SamplingParams(), Flag()))
    assert isinstance(seen[-1], TurnFinished)
    assert seen[-1].finish_reason is FinishReason.ERROR
    assert any(isinstance(event, CodeChecked) for event in seen)


def test_reports_of_a_growing_answer_never_take_a_warning_back() -> None:
    places = random.Random(6).sample(range(1, len(ANSWER)), 60)
    reports = [event.report for event in turn(split(ANSWER, places)) if isinstance(event, CodeChecked)]
    assert all(set(one.warnings) <= set(other.warnings) for one, other in pairwise(reports))
