"""What `ask --vote` shows of the samples beside the answer."""

from __future__ import annotations

from phichat.events import SampleFinished, SamplingProgress, TurnFinished, VoteResult


class VotePresenter:
    """The samples of one prompt and how the vote on them went."""

    def __init__(self) -> None:
        self._replies: dict[int, TurnFinished] = {}
        self._result: VoteResult | None = None

    def on_event(self, event: SamplingProgress | SampleFinished | VoteResult) -> str:
        """A line of progress, "" when there is none."""
        match event:
            case SamplingProgress():
                return f"{event.completed} of {event.total} samples complete, {event.tokens:,} tokens"
            case SampleFinished():
                self._replies[event.index] = event.reply
            case VoteResult():
                self._result = event
        return ""

    def format_result(self) -> str:
        """How the vote went, in words; "" when there was none."""
        if self._result is None:
            return ""
        from phichat.chat.vote.majority import format_result

        return format_result(self._result)

    def to_document(self) -> dict[str, object]:
        """The same for `--json`; empty when there was no vote."""
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
