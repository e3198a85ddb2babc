"""What every readable form says about a conversation beside its texts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from phichat.messages import FinishReason, ModelInfo
from phichat.terminal import clean_line
from phichat.transcript.records import ConversationRecord, TurnRecord


def title(conversation: ConversationRecord) -> str:
    """One line that names it."""
    return clean_line(conversation.title) or f"Conversation {clean_line(conversation.id)}"


def when(moment: datetime) -> str:
    """For people: to the minute, in UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def iso(moment: datetime) -> str:
    """For programs: to the second, in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def models(turns: tuple[TurnRecord, ...]) -> tuple[ModelInfo, ...]:
    """The models that answered, each once, in order of appearance."""
    return tuple(dict.fromkeys(turn.model for turn in turns if turn.model is not None))


def model_name(turn: TurnRecord) -> str:
    """Who answered, as one line."""
    return clean_line(turn.model.name) if turn.model else "Assistant"


def generation(turn: TurnRecord) -> str:
    """How the answer was made: seed, the parameters, tokens, speed; "" when nothing is known."""
    said: list[str] = []
    if turn.seed is not None:
        said.append(f"seed {turn.seed}")
    if turn.params is not None:
        said.append(f"temperature {turn.params.temperature:g}")
        if turn.params.temperature > 0:
            said.append(f"top-k {turn.params.top_k}")
            said.append(f"top-p {turn.params.top_p:g}")
            said.append(f"min-p {turn.params.min_p:g}")
        if turn.params.repeat_penalty != 1:
            said.append(f"repeat penalty {turn.params.repeat_penalty:g}")
    if turn.usage is not None and turn.usage.completion_tokens:
        said.append(f"{turn.usage.completion_tokens:,} tokens")
    if turn.timings is not None and turn.timings.tokens_per_second:
        said.append(f"{turn.timings.tokens_per_second:.1f} tokens/s")
    return ", ".join(said)


def remarks(turn: TurnRecord) -> Iterator[str]:
    """What a reader should know of an answer that is not simply complete; single lines."""
    if turn.dropped_turns:
        turns = "turn" if turn.dropped_turns == 1 else "turns"
        yield f"The model did not see the oldest {turn.dropped_turns} {turns}: they did not fit its context."
    match turn.finish_reason:
        case None:
            yield "This answer is being written." if turn.live else "This answer was cut off: it never ended."
        case FinishReason.LENGTH:
            yield "This answer ends where its limit of tokens or the context did."
        case FinishReason.CANCELLED:
            yield "This answer was cancelled."
        case FinishReason.ERROR:
            yield "This answer failed" + (f": {clean_line(turn.error)}" if turn.error else ".")
        case FinishReason.STOP:
            pass


def warnings(turn: TurnRecord) -> tuple[str, ...]:
    """What the code check warned of; single lines."""
    return tuple(clean_line(warning) for warning in turn.code.warnings) if turn.code else ()


def others(conversation: ConversationRecord) -> str:
    """A line about the turns that stand in other branches; "" when there are none."""
    hidden = len(conversation.turns) - len(conversation.branch())
    if not hidden:
        return ""
    return f"{hidden} {'turn' if hidden == 1 else 'turns'} of other branches are not shown; the JSON export has them."
