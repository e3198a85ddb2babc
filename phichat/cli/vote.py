"""What `ask --vote` shows of the samples beside the answer."""

from __future__ import annotations

from phichat.events import SampleFinished, Sampling, TurnFinished, Voted


class Samples:
    """The samples of one prompt and how the vote on them went."""

    def __init__(self) -> None:
        self._replies: dict[int, TurnFinished] = {}
        self._vote: Voted | None = None

    def take(self, event: Sampling | SampleFinished | Voted) -> str:
        """A line of progress, "" when there is none."""
        match event:
            case Sampling():
                return f"{event.complete} of {event.total} samples complete, {event.tokens:,} tokens"
            case SampleFinished():
                self._replies[event.number] = event.reply
            case Voted():
                self._vote = event
        return ""

    def outcome(self) -> str:
        """How the vote went, in words; "" when there was none."""
        if self._vote is None:
            return ""
        from phichat.chat.voting import outcome

        return outcome(self._vote)

    def document(self) -> dict[str, object]:
        """The same for `--json`; empty when there was no vote."""
        vote = self._vote
        if vote is None:
            return {}
        answers = {number: group.answer for group in vote.groups for number in group.samples}
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
        places = {number: place for place, number in enumerate(sorted(self._replies))}
        groups = [
            {
                "answer": group.answer,
                "count": len(group.samples),
                "samples": [places[number] for number in group.samples],
            }
            for group in vote.groups
        ]
        return {
            "vote": {
                "by": vote.by,
                "asked": vote.asked,
                "samples": samples,
                "groups": groups,
                "agreement": vote.agreement,
                "winner": places[vote.winner],
                "outcome": self.outcome(),
            }
        }
