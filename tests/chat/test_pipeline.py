"""The turn pipeline, and a conversation, on a scripted backend."""

import pytest

from phichat.cancel import CancelToken
from phichat.chat.context_window import MessageHistory, Turn, TurnHistory
from phichat.chat.conversation import Conversation
from phichat.chat.pipeline import TurnPipeline
from phichat.engine.scripted_backend import ScriptedBackend, ScriptedReply
from phichat.errors import ContextOverflow, EngineCrashed
from phichat.events import (
    ContextTrimmed,
    Event,
    ModelReady,
    ReasoningDelta,
    SampleFinished,
    TextDelta,
    TurnFinished,
    TurnStarted,
)
from phichat.types import FinishReason, Message, Role, SamplingParams

CRASH = EngineCrashed("The engine crashed", "ask again")


def turn(conversation: Conversation, prompt: str, cancel: CancelToken | None = None) -> list[Event]:
    return list(conversation.send(prompt, SamplingParams(), cancel or CancelToken()))


def talk(backend: ScriptedBackend, system: str | None = None) -> Conversation:
    return Conversation(lambda: backend, system)


def history(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.prompt, turn.text) for turn in conversation.branch]


def test_a_turn_begins_with_the_prompt_and_ends_once() -> None:
    session = talk(ScriptedBackend([ScriptedReply(["Hel", "lo"], reasoning=["hm"])]), "be kind")
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
    backend = ScriptedBackend([ScriptedReply(["one"]), ScriptedReply(["two"])])
    session = talk(backend)
    first, second = turn(session, "a"), turn(session, "b")
    assert sum(isinstance(event, ModelReady) for event in first + second) == 1
    assert backend.prompts[1] == (
        Message(Role.USER, "a"),
        Message(Role.ASSISTANT, "one"),
        Message(Role.USER, "b"),
    )
    assert history(session) == [("a", "one"), ("b", "two")]


def test_what_was_left_out_is_told_and_counted() -> None:
    pipeline = TurnPipeline(ScriptedBackend([ScriptedReply(["y"])], context=40))
    earlier = [Turn("w " * 20, "x")] * 2
    events = list(pipeline.run(TurnHistory(None, earlier, "q"), SamplingParams(), CancelToken()))
    trimmed = next(event for event in events if isinstance(event, ContextTrimmed))
    assert trimmed.dropped_turns == 1
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].dropped_turns == 1


def test_a_crash_keeps_what_was_said_and_the_next_turn_works() -> None:
    session = talk(ScriptedBackend([ScriptedReply(["half an"], error=CRASH), ScriptedReply(["whole"])]))
    with pytest.raises(EngineCrashed):
        turn(session, "a")
    assert TextDelta("whole") in turn(session, "b")
    assert history(session) == [("a", "half an"), ("b", "whole")]


def test_every_failure_is_preceded_by_the_end_of_the_turn() -> None:
    for backend, error in (
        (ScriptedBackend([ScriptedReply(["x"], error=CRASH)]), EngineCrashed),
        (ScriptedBackend([ScriptedReply()], context=2), ContextOverflow),
    ):
        seen: list[Event] = []
        with pytest.raises(error):
            for event in talk(backend).send("one two three", SamplingParams(), CancelToken()):
                seen.append(event)
        assert isinstance(seen[-1], TurnFinished)
        assert seen[-1].finish_reason is FinishReason.ERROR


def test_cancel_while_loading_asks_nothing() -> None:
    backend = ScriptedBackend([ScriptedReply(["never"])])
    cancel = CancelToken()
    cancel.set()
    events = turn(talk(backend), "a", cancel)
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].finish_reason is FinishReason.CANCELLED
    assert not backend.prompts


def test_cancel_while_generating_keeps_what_was_said() -> None:
    session, cancel = talk(ScriptedBackend([ScriptedReply(["one", "two", "three"])])), CancelToken()
    for event in session.send("a", SamplingParams(), cancel):
        if event == TextDelta("two"):
            cancel.set()
    assert history(session) == [("a", "onetwo")]


def test_messages_of_a_client_are_sent_as_they_are_and_several_replies_are_samples() -> None:
    backend = ScriptedBackend([ScriptedReply(["one"]), ScriptedReply(["two"])])
    messages = (Message(Role.SYSTEM, "be kind"), Message(Role.USER, "a"), Message(Role.ASSISTANT, "b"))
    events = list(TurnPipeline(backend).run(MessageHistory(messages), SamplingParams(), CancelToken(), n=2))
    assert events[0] == TurnStarted("a", "be kind", SamplingParams())
    assert backend.prompts[0] == messages
    assert [event.reply.text for event in events if isinstance(event, SampleFinished)] == ["one", "two"]
    assert isinstance(events[-1], TurnFinished)
    assert events[-1].text == "one"
    with pytest.raises(ContextOverflow):
        list(
            TurnPipeline(ScriptedBackend([], context=1)).run(MessageHistory(messages), SamplingParams(), CancelToken())
        )
