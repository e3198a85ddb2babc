"""A conversation on a backend that says what it was told to."""

import pytest

from phichat.cancel import CancelToken
from phichat.chat.context_window import Turn
from phichat.chat.pipeline import run_turn
from phichat.chat.session import Session
from phichat.engine.scripted_backend import FakeBackend, FakeReply
from phichat.errors import ContextOverflow, EngineCrashed
from phichat.events import ContextTrimmed, Event, ModelReady, ReasoningDelta, TextDelta, TurnFinished, TurnStarted
from phichat.types import FinishReason, Message, Role, SamplingParams

CRASH = EngineCrashed("The engine crashed", "ask again")


def turn(session: Session, prompt: str, cancel: CancelToken | None = None) -> list[Event]:
    return list(run_turn(session, prompt, SamplingParams(), cancel or CancelToken()))


def test_a_turn_begins_with_the_prompt_and_ends_once() -> None:
    session = Session(FakeBackend([FakeReply(["Hel", "lo"], reasoning=["hm"])]), "be kind")
    events = turn(session, "Hi")
    assert events[0] == TurnStarted("Hi", "be kind", SamplingParams())
    assert [event for event in events if isinstance(event, TurnFinished)] == [events[-1]]
    assert [event for event in events if isinstance(event, (TextDelta, ReasoningDelta))] == [
        ReasoningDelta("hm"),
        TextDelta("Hel"),
        TextDelta("lo"),
    ]
    assert isinstance(events[-1], TurnFinished)
    assert (events[-1].text, events[-1].reasoning) == ("Hello", "hm")


def test_the_history_is_sent_and_the_model_loaded_once() -> None:
    backend = FakeBackend([FakeReply(["one"]), FakeReply(["two"])])
    session = Session(backend)
    first, second = turn(session, "a"), turn(session, "b")
    assert sum(isinstance(event, ModelReady) for event in first + second) == 1
    assert backend.prompts[1] == (
        Message(Role.USER, "a"),
        Message(Role.ASSISTANT, "one"),
        Message(Role.USER, "b"),
    )
    assert session.history == (Turn("a", "one"), Turn("b", "two"))


def test_what_was_left_out_is_told_and_counted() -> None:
    session = Session(FakeBackend([FakeReply(["y"])], context=40), history=[Turn("w " * 20, "x")] * 2)
    events = turn(session, "q")
    trimmed = next(event for event in events if isinstance(event, ContextTrimmed))
    assert trimmed.dropped_turns == 1
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].dropped_turns == 1


def test_a_crash_keeps_what_was_said_and_the_next_turn_works() -> None:
    session = Session(FakeBackend([FakeReply(["half an"], error=CRASH), FakeReply(["whole"])]))
    with pytest.raises(EngineCrashed):
        turn(session, "a")
    assert TextDelta("whole") in turn(session, "b")
    assert session.history == (Turn("a", "half an"), Turn("b", "whole"))


def test_every_failure_is_preceded_by_the_end_of_the_turn() -> None:
    for backend, error in (
        (FakeBackend([FakeReply(["x"], error=CRASH)]), EngineCrashed),
        (FakeBackend([FakeReply()], context=2), ContextOverflow),
    ):
        seen: list[Event] = []
        with pytest.raises(error):
            for event in Session(backend).send("one two three", SamplingParams(), CancelToken()):
                seen.append(event)
        assert isinstance(seen[-1], TurnFinished)
        assert seen[-1].finish_reason is FinishReason.ERROR


def test_cancel_while_loading_asks_nothing() -> None:
    backend = FakeBackend([FakeReply(["never"])])
    cancel = CancelToken()
    cancel.set()
    events = turn(Session(backend), "a", cancel)
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].finish_reason is FinishReason.CANCELLED
    assert not backend.prompts


def test_cancel_while_generating_keeps_what_was_said() -> None:
    session, cancel = Session(FakeBackend([FakeReply(["one", "two", "three"])])), CancelToken()
    for event in session.send("a", SamplingParams(), cancel):
        if event == TextDelta("two"):
            cancel.set()
    assert session.history == (Turn("a", "onetwo"),)
