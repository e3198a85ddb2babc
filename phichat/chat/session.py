"""A conversation with one backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from phichat.chat.context import Fitted, Turn, fit
from phichat.engine.backend import Backend, Cancel
from phichat.errors import PhichatError
from phichat.events import ContextTrimmed, Event, TurnFinished, TurnStarted
from phichat.messages import FinishReason, GenerationParams, Message

if TYPE_CHECKING:
    from phichat.chat.voting import Poll


class Session:
    """Owns the history and the context budget; the backend owns everything about the model."""

    def __init__(
        self,
        backend: Backend,
        system: str | None = None,
        history: Sequence[Turn] = (),
        owner: Callable[[], str] = lambda: "",
    ) -> None:
        """owner: the id of the kept conversation, "" where it is not kept; asked for when a turn has begun."""
        self._backend, self._owner = backend, owner
        self.system = system
        self._history = list(history)

    @property
    def history(self) -> Sequence[Turn]:
        """The turns so far, with what was said of those that were cut off."""
        return tuple(self._history)

    def send(self, prompt: str, params: GenerationParams, cancel: Cancel) -> Iterator[Event]:
        """One turn. Raises PhichatError kinds, after the TurnFinished where the turn had begun.

        Setting `cancel` ends it with what was said until then, in loading and in the prompt too.
        """

        def reply(messages: Sequence[Message]) -> Iterator[Event]:
            return self._backend.generate(messages, params, cancel, self._owner())

        return self._turn(prompt, params, cancel, reply)

    def vote(self, prompt: str, params: GenerationParams, poll: Poll, cancel: Cancel) -> Iterator[Event]:
        """As `send`, with the reply that most of several agree with."""
        from phichat.chat.voting import elected

        def reply(messages: Sequence[Message]) -> Iterator[Event]:
            return elected(self._backend, messages, params, poll, cancel)

        return self._turn(prompt, params, cancel, reply)

    def _turn(
        self,
        prompt: str,
        params: GenerationParams,
        cancel: Cancel,
        reply: Callable[[Sequence[Message]], Iterator[Event]],
    ) -> Iterator[Event]:
        yield TurnStarted(prompt, self.system, params)
        yield from finishing(self._events(prompt, params, cancel, reply))

    def _events(
        self,
        prompt: str,
        params: GenerationParams,
        cancel: Cancel,
        reply: Callable[[Sequence[Message]], Iterator[Event]],
    ) -> Iterator[Event]:
        yield from self._backend.load(cancel)
        fitted = None if cancel.is_set() else self._fitted(prompt, params, cancel)
        if fitted is None or cancel.is_set():
            # The model may be ready even so, but nothing has been asked of it.
            yield TurnFinished("", "", FinishReason.CANCELLED)
            return
        if fitted.dropped_turns:
            yield ContextTrimmed(fitted.dropped_turns, fitted.tokens, self._backend.n_ctx)
        for event in reply(fitted.messages):
            if isinstance(event, TurnFinished):
                if event.text:
                    self._history.append(Turn(prompt, event.text))
                event = replace(event, dropped_turns=fitted.dropped_turns)
            yield event

    def _fitted(self, prompt: str, params: GenerationParams, cancel: Cancel) -> Fitted:
        def count(messages: Sequence[Message]) -> int:
            return self._backend.count(messages, cancel)

        return fit(self.system, self._history, prompt, count, self._backend.n_ctx, params.max_tokens)

    def close(self) -> None:
        """Free the model."""
        self._backend.close()


def finishing(events: Iterator[Event]) -> Iterator[Event]:
    """The events of a turn, with a TurnFinished before an error that came without one."""
    finished = False
    try:
        for event in events:
            finished = finished or isinstance(event, TurnFinished)
            yield event
    except PhichatError:
        if not finished:
            yield TurnFinished("", "", FinishReason.ERROR)
        raise
