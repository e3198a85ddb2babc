"""The turn pipeline: load the model, fit the history, generate or vote, check the code, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phichat.chat.context_window import MessageHistory, TurnHistory
from phichat.code_report import TrainingScope
from phichat.codecheck.stream import check_code
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import PhichatError
from phichat.events import ContextTrimmed, Event, SampleFinished, TurnFinished, TurnStarted
from phichat.types import FinishReason, Message, Role, SamplingParams

if TYPE_CHECKING:
    from phichat.chat.vote.majority import VoteConfig
    from phichat.transcript.recorder import Recorder


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

        def generate(messages: Sequence[Message]) -> Iterator[Event]:
            if vote:
                from phichat.chat.vote.majority import run_vote

                return run_vote(self.backend, messages, params, vote, cancel)
            if n > 1:
                return _end_with_first_sample(self.backend.generate_n(messages, params, n, cancel))
            # A KV state is only worth saving for a conversation that phichat itself continues.
            saved_id = self.recorder.conversation_id if self.recorder and isinstance(history, TurnHistory) else None
            return self.backend.generate(messages, params, cancel, saved_id or "")

        events = self._run_turn(history, params, cancel, generate)
        if self.checks_code:
            events = check_code(events, self.training_scope)
        return self.recorder.record_events(events) if self.recorder else events

    def _run_turn(
        self,
        history: TurnHistory | MessageHistory,
        params: SamplingParams,
        cancel: CancelToken,
        generate: Callable[[Sequence[Message]], Iterator[Event]],
    ) -> Iterator[Event]:
        prompt = Message(Role.USER, history.prompt)
        yield TurnStarted(prompt.text, history.system, params, prompt.parts if prompt.attachments else ())
        backend, finished = self.backend, False
        try:
            yield from backend.load(cancel)
            fitted = None
            if not cancel.is_set():
                fitted = history.fit(
                    lambda messages: backend.count_tokens(messages, cancel), backend.n_ctx, params.max_tokens
                )
            if fitted is None or cancel.is_set():
                # The model may be ready even so, but it has not been asked.
                yield TurnFinished("", "", FinishReason.CANCELLED)
                return
            if fitted.dropped_turns:
                yield ContextTrimmed(fitted.dropped_turns, fitted.tokens, backend.n_ctx)
            for event in generate(fitted.messages):
                if isinstance(event, TurnFinished):
                    finished, event = True, replace(event, dropped_turns=fitted.dropped_turns)
                yield event
        except PhichatError:
            if not finished:
                yield TurnFinished("", "", FinishReason.ERROR)
            raise


def _end_with_first_sample(events: Iterator[Event]) -> Iterator[Event]:
    first = TurnFinished("", "", FinishReason.CANCELLED)
    for event in events:
        if isinstance(event, SampleFinished) and event.index == 0:
            first = event.reply
        yield event
    yield first
