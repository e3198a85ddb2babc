"""Presenters of one turn: the answer on stdout, everything else on stderr."""

from dataclasses import asdict

from phichat import events
from phichat.chat.presenter import TurnPresenter
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.output import Output
from phichat.code_report import CodeReport
from phichat.types import FinishReason


class NoticePresenter(TurnPresenter):
    """Prints the notices about a turn and, on request, the model's reasoning."""

    def __init__(self, diagnostics: Diagnostics, output: Output, *, show_reasoning: bool) -> None:
        self._diagnostics, self._output, self._show_reasoning = diagnostics, output, show_reasoning

    def on_model_ready(self, event: events.ModelReady) -> None:
        self._diagnostics.print_notice(*event.notices)

    def on_context_trimmed(self, event: events.ContextTrimmed) -> None:
        turns = "turn was" if event.dropped_turns == 1 else f"{event.dropped_turns} turns were"
        reason = f"{'it doesn' if event.dropped_turns == 1 else 'they don'}'t fit the {event.n_ctx:,}-token context"
        self._diagnostics.print_notice(f"The oldest {turns} left out: {reason}.")

    def on_transcript_unavailable(self, event: events.TranscriptUnavailable) -> None:
        self._diagnostics.print_notice(f"This conversation isn't being saved: {event.reason}.")

    def on_reasoning_delta(self, event: events.ReasoningDelta) -> None:
        if self._show_reasoning:
            self._diagnostics.print_reasoning(event.text)


class AskPresenter(NoticePresenter):
    """Prints the turn of `phichat ask`, with the progress of its parts.

    previous_model: the model that answered the conversation so far, "" when there is none.
    """

    def __init__(
        self, diagnostics: Diagnostics, output: Output, *, stream: bool, show_reasoning: bool, previous_model: str
    ) -> None:
        super().__init__(diagnostics, output, show_reasoning=show_reasoning)
        self._stream, self._previous_model, self._model = stream, previous_model, ""
        self._code_report = CodeReport()
        self._samples: dict[int, events.TurnFinished] = {}
        self._vote_result: events.VoteResult | None = None
        self.finish_event: events.TurnFinished | None = None

    def on_model_verifying(self, event: events.ModelVerifying) -> None:
        self._diagnostics.show_progress(f"verifying {event.model} {event.fraction:.0%}")

    def on_model_loading(self, event: events.ModelLoading) -> None:
        self._diagnostics.show_progress(f"loading {event.model} {event.fraction:.0%}")

    def on_model_ready(self, event: events.ModelReady) -> None:
        self._model = event.model.name
        if self._previous_model not in ("", self._model):
            self._diagnostics.print_notice(f"Switching from {self._previous_model} to {self._model} for this answer.")
        super().on_model_ready(event)
        self._diagnostics.show_progress("reading the prompt")

    def on_prompt_progress(self, event: events.PromptProgress) -> None:
        reading = f"reading {event.done:,} of {event.total:,} tokens"
        self._diagnostics.show_progress(reading if event.done < event.total else "thinking")

    def on_text_delta(self, event: events.TextDelta) -> None:
        if self._stream:
            self._diagnostics.end_reasoning()
            self._diagnostics.clear_progress()
            self._output.write_delta(event.text)

    def on_code_checked(self, event: events.CodeChecked) -> None:
        self._code_report = event.report

    def on_sampling_progress(self, event: events.SamplingProgress) -> None:
        self._diagnostics.show_progress(f"{event.completed} of {event.total} samples complete, {event.tokens:,} tokens")

    def on_sample_finished(self, event: events.SampleFinished) -> None:
        self._samples[event.index] = event.reply

    def on_vote_result(self, event: events.VoteResult) -> None:
        self._vote_result = event

    def on_turn_finished(self, event: events.TurnFinished) -> None:
        self.finish_event = event

    def print_end(self, conversation_id: str | None, *, as_json: bool, extract: bool, usage: bool) -> None:
        """Print the document or the whole answer, then the notices. Raises StdoutClosed."""
        finished, diagnostics = self.finish_event, self._diagnostics
        assert finished is not None
        diagnostics.end_reasoning()
        diagnostics.clear_progress()
        if as_json:
            self._output.write_json(self._to_document(finished, conversation_id))
        elif extract:
            from phichat.codecheck.blocks import find_first_code_block

            block = find_first_code_block(finished.text)
            self._output.write_text(finished.text if block is None else block)
        elif self._stream:
            self._output.end_text()
        else:
            self._output.write_text(finished.text)
        notices = [self._format_vote(), *self._code_report.warnings]
        if usage and finished.usage.prompt_tokens:
            notices.append(_format_usage(finished))
        used = finished.usage.prompt_tokens + finished.usage.completion_tokens
        if finished.finish_reason is FinishReason.LENGTH and used > finished.n_ctx > 0:
            context = f"the {finished.n_ctx:,}-token context is full"
            notices.append(f"The answer was cut off: {context}. Use a larger --ctx-size.")
        notices += finished.notices
        if conversation_id and diagnostics.is_terminal:
            notices.append(f"Continue with `phichat ask --cid {conversation_id}`.")
        diagnostics.print_notice(*filter(None, notices))

    def exit_code(self, *, strict: bool) -> ExitCode:
        """Return the exit code of a turn that raised nothing."""
        if self.finish_event is None or self.finish_event.finish_reason is FinishReason.CANCELLED:
            return ExitCode.INTERRUPTED
        return ExitCode.CODE_WARNING if strict and self._code_report.warnings else ExitCode.DONE

    def _to_document(self, finished: events.TurnFinished, conversation_id: str | None) -> dict[str, object]:
        document: dict[str, object] = {
            "conversation_id": conversation_id,
            "model": self._model,
            "text": finished.text,
            "reasoning": finished.reasoning,
            "finish_reason": finished.finish_reason,
            "seed": finished.seed,
            "usage": asdict(finished.usage),
            "timings": asdict(finished.timings),
            "context": {"n_ctx": finished.n_ctx, "dropped_turns": finished.dropped_turns},
            "code": self._code_report.to_dict(),
        }
        return document | {"vote": self._vote_document(self._vote_result)} if self._vote_result else document

    def _vote_document(self, result: events.VoteResult) -> dict[str, object]:
        answers = {number: group.answer for group in result.groups for number in group.samples}
        positions = {number: position for position, number in enumerate(sorted(self._samples))}
        samples = [
            {
                "text": reply.text,
                "reasoning": reply.reasoning,
                "finish_reason": reply.finish_reason,
                "seed": reply.seed,
                "tokens": reply.usage.completion_tokens,
                "answer": answers.get(number),
            }
            for number, reply in sorted(self._samples.items())
        ]
        groups = [(group.answer, [positions[number] for number in group.samples]) for group in result.groups]
        return {
            "by": result.answer_kind,
            "asked": result.requested,
            "samples": samples,
            "groups": [{"answer": answer, "count": len(places), "samples": places} for answer, places in groups],
            "agreement": result.agreement,
            "winner": positions[result.winner],
            "outcome": self._format_vote(),
        }

    def _format_vote(self) -> str:
        if self._vote_result is None:
            return ""
        from phichat.chat.vote.majority import format_result

        return format_result(self._vote_result)


def _format_usage(finished: events.TurnFinished) -> str:
    usage, timings = finished.usage, finished.timings
    extra_times = f", waiting {timings.wait_s:.2f} s" if timings.wait_s >= 0.005 else ""
    extra_times += f", restoring {timings.restore_s:.2f} s" if timings.restore_s >= 0.005 else ""
    return (
        f"{usage.prompt_tokens:,} prompt tokens ({usage.cached_tokens:,} cached) in {timings.prompt_s:.2f} s, "
        f"{usage.completion_tokens:,} generated in {timings.generation_s:.2f} s, "
        f"{timings.tokens_per_second:.1f} tokens/s; loading took {timings.load_s:.2f} s{extra_times}"
    )
