"""Base class of the consumers that show the events of a turn, and the dispatcher over the events."""

from typing import assert_never

from phichat import events
from phichat.events import Event


class TurnPresenter:
    """One no-op method per event; a presenter overrides those of the events that it shows."""

    def on_turn_started(self, event: events.TurnStarted) -> None: ...
    def on_model_verifying(self, event: events.ModelVerifying) -> None: ...
    def on_model_loading(self, event: events.ModelLoading) -> None: ...
    def on_model_ready(self, event: events.ModelReady) -> None: ...
    def on_context_trimmed(self, event: events.ContextTrimmed) -> None: ...
    def on_prompt_progress(self, event: events.PromptProgress) -> None: ...
    def on_reasoning_delta(self, event: events.ReasoningDelta) -> None: ...
    def on_text_delta(self, event: events.TextDelta) -> None: ...
    def on_code_checked(self, event: events.CodeChecked) -> None: ...
    def on_transcript_unavailable(self, event: events.TranscriptUnavailable) -> None: ...
    def on_sampling_progress(self, event: events.SamplingProgress) -> None: ...
    def on_sample_finished(self, event: events.SampleFinished) -> None: ...
    def on_vote_result(self, event: events.VoteResult) -> None: ...
    def on_turn_finished(self, event: events.TurnFinished) -> None: ...


def present(event: Event, presenter: TurnPresenter) -> None:
    """Call the presenter's method for the event."""
    match event:
        case events.TurnStarted():
            presenter.on_turn_started(event)
        case events.ModelVerifying():
            presenter.on_model_verifying(event)
        case events.ModelLoading():
            presenter.on_model_loading(event)
        case events.ModelReady():
            presenter.on_model_ready(event)
        case events.ContextTrimmed():
            presenter.on_context_trimmed(event)
        case events.PromptProgress():
            presenter.on_prompt_progress(event)
        case events.ReasoningDelta():
            presenter.on_reasoning_delta(event)
        case events.TextDelta():
            presenter.on_text_delta(event)
        case events.CodeChecked():
            presenter.on_code_checked(event)
        case events.TranscriptUnavailable():
            presenter.on_transcript_unavailable(event)
        case events.SamplingProgress():
            presenter.on_sampling_progress(event)
        case events.SampleFinished():
            presenter.on_sample_finished(event)
        case events.VoteResult():
            presenter.on_vote_result(event)
        case events.TurnFinished():
            presenter.on_turn_finished(event)
        case _:
            assert_never(event)


def format_trimmed(event: events.ContextTrimmed) -> str:
    """Return the notice that turns were left out of the prompt."""
    one = event.dropped_turns == 1
    turns, fit = ("turn was", "it doesn't") if one else (f"{event.dropped_turns:,} turns were", "they don't")
    return f"The oldest {turns} left out: {fit} fit the {event.n_ctx:,}-token context."


def format_unavailable(event: events.TranscriptUnavailable) -> str:
    """Return the notice that the transcript cannot be written."""
    return f"This conversation isn't being saved: {event.reason}."
