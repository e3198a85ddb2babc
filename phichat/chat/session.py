"""A conversation with one backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from phichat.chat.context_window import FittedPrompt, Turn, fit_history
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import PhichatError
from phichat.events import ContextTrimmed, Event, TurnFinished, TurnStarted
from phichat.types import FinishReason, Message, SamplingParams

if TYPE_CHECKING:
    from phichat.chat.vote.majority import VoteConfig


class Session:
    """Owns the history and the context budget; the backend owns everything about the model."""

    def __init__(
        self,
        backend: Backend,
        system: str | None = None,
        history: Sequence[Turn] = (),
        get_conversation_id: Callable[[], str] = lambda: "",
    ) -> None:
        """owner: the id of the kept conversation, "" where it is not kept; asked for when a turn has begun."""
        self._backend, self._get_conversation_id = backend, get_conversation_id
        self.system = system
        self._history = list(history)

    @property
    def history(self) -> Sequence[Turn]:
        """The turns so far, with what was said of those that were cut off."""
        return tuple(self._history)

    def send(self, prompt: str, params: SamplingParams, cancel: CancelToken) -> Iterator[Event]:
        """One turn. Raises PhichatError kinds, after the TurnFinished where the turn had begun.

        Setting `cancel` ends it with what was said until then, in loading and in the prompt too.
        """

        def generate_reply(messages: Sequence[Message]) -> Iterator[Event]:
            return self._backend.generate(messages, params, cancel, self._get_conversation_id())

        return self._run_turn(prompt, params, cancel, generate_reply)

    def send_with_vote(
        self, prompt: str, params: SamplingParams, vote_config: VoteConfig, cancel: CancelToken
    ) -> Iterator[Event]:
        """As `send`, with the reply that most of several agree with."""
        from phichat.chat.vote.majority import run_vote

        def generate_reply(messages: Sequence[Message]) -> Iterator[Event]:
            return run_vote(self._backend, messages, params, vote_config, cancel)

        return self._run_turn(prompt, params, cancel, generate_reply)

    def _run_turn(
        self,
        prompt: str,
        params: SamplingParams,
        cancel: CancelToken,
        generate_reply: Callable[[Sequence[Message]], Iterator[Event]],
    ) -> Iterator[Event]:
        yield TurnStarted(prompt, self.system, params)
        yield from ensure_turn_finished(self._generate_events(prompt, params, cancel, generate_reply))

    def _generate_events(
        self,
        prompt: str,
        params: SamplingParams,
        cancel: CancelToken,
        generate_reply: Callable[[Sequence[Message]], Iterator[Event]],
    ) -> Iterator[Event]:
        yield from self._backend.load(cancel)
        fitted_prompt = None if cancel.is_set() else self._fit_prompt(prompt, params, cancel)
        if fitted_prompt is None or cancel.is_set():
            # The model may be ready even so, but nothing has been asked of it.
            yield TurnFinished("", "", FinishReason.CANCELLED)
            return
        if fitted_prompt.dropped_turns:
            yield ContextTrimmed(fitted_prompt.dropped_turns, fitted_prompt.tokens, self._backend.n_ctx)
        for event in generate_reply(fitted_prompt.messages):
            if isinstance(event, TurnFinished):
                if event.text:
                    self._history.append(Turn(prompt, event.text))
                event = replace(event, dropped_turns=fitted_prompt.dropped_turns)
            yield event

    def _fit_prompt(self, prompt: str, params: SamplingParams, cancel: CancelToken) -> FittedPrompt:
        def count_tokens(messages: Sequence[Message]) -> int:
            return self._backend.count_tokens(messages, cancel)

        return fit_history(self.system, self._history, prompt, count_tokens, self._backend.n_ctx, params.max_tokens)

    def close(self) -> None:
        """Free the model."""
        self._backend.close()


def ensure_turn_finished(events: Iterator[Event]) -> Iterator[Event]:
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
