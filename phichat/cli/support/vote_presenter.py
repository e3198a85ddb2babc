"""What presenters on the command line share: the samples of `ask --vote`, and the wording of notices."""

from __future__ import annotations

from phichat.chat.presenter import TurnPresenter
from phichat.cli.support.diagnostics import Diagnostics
from phichat.events import (
    ContextTrimmed,
    SampleFinished,
    SamplingProgress,
    TranscriptUnavailable,
    TurnFinished,
    VoteResult,
)


def format_trimmed(event: ContextTrimmed) -> str:
    """Return the notice that turns were left out of the prompt."""
    turns = "turn was" if event.dropped_turns == 1 else f"{event.dropped_turns} turns were"
    pronoun = "it doesn't" if event.dropped_turns == 1 else "they don't"
    return f"The oldest {turns} left out: {pronoun} fit the {event.n_ctx:,}-token context."


def format_unavailable(event: TranscriptUnavailable) -> str:
    """Return the notice that the transcript cannot be written."""
    return f"This conversation isn't being saved: {event.reason}."


class VotePresenter(TurnPresenter):
    """Shows the progress of the samples of one prompt, and keeps them for the result."""

    def __init__(self, diagnostics: Diagnostics) -> None:
        self._diagnostics = diagnostics
        self._replies: dict[int, TurnFinished] = {}
        self._result: VoteResult | None = None

    def on_sampling_progress(self, event: SamplingProgress) -> None:
        self._diagnostics.show_progress(f"{event.completed} of {event.total} samples complete, {event.tokens:,} tokens")

    def on_sample_finished(self, event: SampleFinished) -> None:
        self._replies[event.index] = event.reply

    def on_vote_result(self, event: VoteResult) -> None:
        self._result = event

    def format_result(self) -> str:
        """Return the result of the vote in words; "" when there was no vote."""
        if self._result is None:
            return ""
        from phichat.chat.vote.majority import format_result

        return format_result(self._result)

    def to_document(self) -> dict[str, object]:
        """Return the result for `--json`; empty when there was no vote."""
        result = self._result
        if result is None:
            return {}
        answers = {number: group.answer for group in result.groups for number in group.samples}
        samples = [
            {
                "text": reply.text,
                "reasoning": reply.reasoning,
                "finish_reason": reply.finish_reason,
                "seed": reply.seed,
                "tokens": reply.usage.completion_tokens,
                "answer": answers.get(number),
            }
            for number, reply in sorted(self._replies.items())
        ]
        positions = {number: position for position, number in enumerate(sorted(self._replies))}
        groups = [
            {
                "answer": group.answer,
                "count": len(group.samples),
                "samples": [positions[number] for number in group.samples],
            }
            for group in result.groups
        ]
        return {
            "vote": {
                "by": result.answer_kind,
                "asked": result.requested,
                "samples": samples,
                "groups": groups,
                "agreement": result.agreement,
                "winner": positions[result.winner],
                "outcome": self.format_result(),
            }
        }
