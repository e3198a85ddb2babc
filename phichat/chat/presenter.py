"""Base class of the consumers that show the events of a turn, and the dispatcher over the events."""

from __future__ import annotations

from typing import assert_never

from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
    VoteResult,
)


class TurnPresenter:
    """One no-op method per event; a presenter overrides those of the events that it shows."""

    def on_turn_started(self, event: TurnStarted) -> None: ...

    def on_model_verifying(self, event: ModelVerifying) -> None: ...

    def on_model_loading(self, event: ModelLoading) -> None: ...

    def on_model_ready(self, event: ModelReady) -> None: ...

    def on_context_trimmed(self, event: ContextTrimmed) -> None: ...

    def on_prompt_progress(self, event: PromptProgress) -> None: ...

    def on_reasoning_delta(self, event: ReasoningDelta) -> None: ...

    def on_text_delta(self, event: TextDelta) -> None: ...

    def on_code_checked(self, event: CodeChecked) -> None: ...

    def on_transcript_unavailable(self, event: TranscriptUnavailable) -> None: ...

    def on_sampling_progress(self, event: SamplingProgress) -> None: ...

    def on_sample_finished(self, event: SampleFinished) -> None: ...

    def on_vote_result(self, event: VoteResult) -> None: ...

    def on_turn_finished(self, event: TurnFinished) -> None: ...


def present(event: Event, presenter: TurnPresenter) -> None:
    """Call the presenter's method for the event."""
    match event:
        case TurnStarted():
            presenter.on_turn_started(event)
        case ModelVerifying():
            presenter.on_model_verifying(event)
        case ModelLoading():
            presenter.on_model_loading(event)
        case ModelReady():
            presenter.on_model_ready(event)
        case ContextTrimmed():
            presenter.on_context_trimmed(event)
        case PromptProgress():
            presenter.on_prompt_progress(event)
        case ReasoningDelta():
            presenter.on_reasoning_delta(event)
        case TextDelta():
            presenter.on_text_delta(event)
        case CodeChecked():
            presenter.on_code_checked(event)
        case TranscriptUnavailable():
            presenter.on_transcript_unavailable(event)
        case SamplingProgress():
            presenter.on_sampling_progress(event)
        case SampleFinished():
            presenter.on_sample_finished(event)
        case VoteResult():
            presenter.on_vote_result(event)
        case TurnFinished():
            presenter.on_turn_finished(event)
        case _:
            assert_never(event)
