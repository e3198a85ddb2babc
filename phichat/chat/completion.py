"""One reply in a conversation that somebody else keeps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phichat.chat.session import ensure_turn_finished
from phichat.engine.backend import Backend, CancelToken, SampleEvent
from phichat.errors import ContextOverflow
from phichat.events import Event, SampleFinished, TurnFinished, TurnStarted
from phichat.types import FinishReason, Message, Role, SamplingParams


def complete(
    backend: Backend, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, n: int = 1
) -> Iterator[Event]:
    """A turn like `Session.send`'s, but of messages that are sent as they are, with nothing left out.

    replies: how many; of several each is a SampleFinished, and the first is the turn's. Raises what the backend
    raises, and ContextOverflow, after the TurnFinished.
    """
    prompt = next((message.text for message in reversed(messages) if message.role is Role.USER), "")
    yield TurnStarted(prompt, system_prompt(messages), params)
    yield from ensure_turn_finished(_generate_events(backend, messages, params, cancel, n))


def _generate_events(
    backend: Backend, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, n: int
) -> Iterator[Event]:
    yield from backend.load(cancel)
    tokens = 0 if cancel.is_set() else backend.count_tokens(messages, cancel)
    if cancel.is_set():
        yield TurnFinished("", "", FinishReason.CANCELLED)
    elif tokens >= backend.n_ctx > 0:
        raise ContextOverflow(tokens, backend.n_ctx)
    elif n == 1:
        yield from backend.generate(messages, params, cancel)
    else:
        yield from _first_sample_as_turn(backend.generate_n(messages, params, n, cancel))


def _first_sample_as_turn(events: Iterator[SampleEvent]) -> Iterator[Event]:
    """With a TurnFinished: that of the first reply, or of a cancel before it."""
    first = TurnFinished("", "", FinishReason.CANCELLED)
    for event in events:
        if isinstance(event, SampleFinished) and event.index == 0:
            first = event.reply
        yield event
    yield first


def system_prompt(messages: Sequence[Message]) -> str | None:
    """What all system messages say."""
    return "\n\n".join(message.text for message in messages if message.role is Role.SYSTEM) or None
