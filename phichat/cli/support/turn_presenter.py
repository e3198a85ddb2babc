"""Presenter of a turn for the commands that show one: the answer, the notices and the line of progress."""

from phichat import events
from phichat.chat.presenter import TurnPresenter, format_trimmed, format_unavailable
from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.output import Output


def show_progress(event: object, diagnostics: Diagnostics) -> None:
    """Show the progress that an event of a backend or a turn reports, if any."""
    match event:
        case events.ModelVerifying():
            line = f"verifying {event.model} {event.fraction:.0%}"
        case events.ModelLoading():
            line = f"loading {event.model} {event.fraction:.0%}"
        case events.ModelReady():
            line = "reading the prompt"
        case events.PromptProgress():
            line = f"reading {event.done:,} of {event.total:,} tokens" if event.done < event.total else "thinking"
        case events.SamplingProgress():
            line = f"{event.completed} of {event.total} samples complete, {event.tokens:,} tokens"
        case _:
            return
    diagnostics.show_progress(line)


class TerminalPresenter(TurnPresenter):
    """Prints the answer of one turn on stdout, and reasoning and notices on stderr."""

    def __init__(self, diagnostics: Diagnostics, output: Output, *, stream: bool = True, show_reasoning: bool) -> None:
        self._diagnostics, self._output = diagnostics, output
        self._stream, self._show_reasoning = stream, show_reasoning

    def on_model_ready(self, event: events.ModelReady) -> None:
        self._diagnostics.print_notice(*event.notices)

    def on_context_trimmed(self, event: events.ContextTrimmed) -> None:
        self._diagnostics.print_notice(format_trimmed(event))

    def on_transcript_unavailable(self, event: events.TranscriptUnavailable) -> None:
        self._diagnostics.print_notice(format_unavailable(event))

    def on_reasoning_delta(self, event: events.ReasoningDelta) -> None:
        if self._show_reasoning:
            self._diagnostics.print_reasoning(event.text)

    def on_text_delta(self, event: events.TextDelta) -> None:
        if self._stream:
            self._diagnostics.end_reasoning()
            self._diagnostics.clear_progress()
            self._output.write_delta(event.text)
