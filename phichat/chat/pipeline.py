"""The one way from a prompt to an answer: load, fit, generate or vote, check the code, record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phichat.chat.context_window import FittedPrompt, TokenCounter, Turn, fit_history
from phichat.codecheck.stream import check_code
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import ContextOverflow, PhichatError
from phichat.events import ContextTrimmed, Event, SampleFinished, TurnFinished, TurnStarted
from phichat.types import Content, FinishReason, Message, Role, SamplingParams

if TYPE_CHECKING:
    from phichat.chat.vote.majority import VoteConfig
    from phichat.code_report import TrainingScope
    from phichat.transcript.recorder import Recorder


@dataclass(frozen=True, slots=True)
class TurnHistory:
    """The earlier turns of a conversation; the oldest are left out where the context is too small for all."""

    system: str | None = None
    turns: Sequence[Turn] = ()
    prompt: Content = ""

    def fit(self, count_tokens: TokenCounter, n_ctx: int, max_tokens: int | None) -> FittedPrompt:
        """Choose the messages to send. Raises ContextOverflow."""
        return fit_history(self.system, self.turns, self.prompt, count_tokens, n_ctx, max_tokens)


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """Messages of a client that keeps its conversation itself; they are sent as they are."""

    messages: tuple[Message, ...]

    @property
    def system(self) -> str | None:
        """All system messages, a blank line apart."""
        return "\n\n".join(message.text for message in self.messages if message.role is Role.SYSTEM) or None

    @property
    def prompt(self) -> Content:
        """The last message of the user."""
        return next((message.parts for message in reversed(self.messages) if message.role is Role.USER), "")

    def fit(self, count_tokens: TokenCounter, n_ctx: int, max_tokens: int | None) -> FittedPrompt:
        """Return the messages. Raises ContextOverflow."""
        tokens = count_tokens(self.messages)
        if tokens >= n_ctx > 0:
            raise ContextOverflow(tokens, n_ctx)
        return FittedPrompt(self.messages, 0, tokens)


@dataclass(frozen=True, slots=True)
class TurnPipeline:
    """Runs turns on a backend.

    recorder: writes each event to the transcript before a consumer sees it; None saves nothing.
    training_scope: what the model's code was mostly trained on, for the code check.
    checks_code: False where no consumer shows the code check and nothing is recorded.
    """

    backend: Backend
    recorder: Recorder | None = None
    training_scope: TrainingScope | None = None
    checks_code: bool = True

    def run(
        self,
        history: TurnHistory | MessageHistory,
        params: SamplingParams,
        cancel: CancelToken,
        *,
        n: int = 1,
        vote: VoteConfig | None = None,
    ) -> Iterator[Event]:
        """Answer the prompt of a history: TurnStarted first, exactly one TurnFinished last.

        n: how many replies; each of several is a SampleFinished, and the first is the turn's. vote: sample several
        replies for the answer that most of them agree on. Setting `cancel` ends the turn with the text so far, also
        while the model loads. Raises what the backend raises, and ContextOverflow, after the TurnFinished.
        """
        events = self._run_turn(history, params, cancel, n, vote)
        if self.checks_code:
            events = check_code(events, self.training_scope)
        return self.recorder.record_events(events) if self.recorder else events

    def _run_turn(
        self,
        history: TurnHistory | MessageHistory,
        params: SamplingParams,
        cancel: CancelToken,
        n: int,
        vote: VoteConfig | None,
    ) -> Iterator[Event]:
        prompt = Message(Role.USER, history.prompt)
        yield TurnStarted(prompt.text, history.system, params, prompt.parts if prompt.attachments else ())
        finished = False
        try:
            yield from self.backend.load(cancel)
            fitted = None if cancel.is_set() else self._fit(history, params, cancel)
            if fitted is None or cancel.is_set():
                # The model may be ready even so, but it has not been asked.
                yield TurnFinished("", "", FinishReason.CANCELLED)
                return
            if fitted.dropped_turns:
                yield ContextTrimmed(fitted.dropped_turns, fitted.tokens, self.backend.n_ctx)
            for event in self._generate(history, fitted.messages, params, cancel, n, vote):
                if isinstance(event, TurnFinished):
                    finished, event = True, replace(event, dropped_turns=fitted.dropped_turns)
                yield event
        except PhichatError:
            if not finished:
                yield TurnFinished("", "", FinishReason.ERROR)
            raise

    def _fit(self, history: TurnHistory | MessageHistory, params: SamplingParams, cancel: CancelToken) -> FittedPrompt:
        return history.fit(
            lambda messages: self.backend.count_tokens(messages, cancel), self.backend.n_ctx, params.max_tokens
        )

    def _generate(
        self,
        history: TurnHistory | MessageHistory,
        messages: Sequence[Message],
        params: SamplingParams,
        cancel: CancelToken,
        n: int,
        vote: VoteConfig | None,
    ) -> Iterator[Event]:
        if vote:
            from phichat.chat.vote.majority import run_vote

            yield from run_vote(self.backend, messages, params, vote, cancel)
        elif n > 1:
            first = TurnFinished("", "", FinishReason.CANCELLED)
            for event in self.backend.generate_n(messages, params, n, cancel):
                if isinstance(event, SampleFinished) and event.index == 0:
                    first = event.reply
                yield event
            yield first
        else:
            # A KV state is only worth saving for a conversation that phichat itself continues.
            saved_id = self.recorder.conversation_id if self.recorder and isinstance(history, TurnHistory) else None
            yield from self.backend.generate(messages, params, cancel, saved_id or "")
