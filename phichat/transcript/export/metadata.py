"""What every readable form says about a conversation beside its texts."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from phichat.sanitize import sanitize_line
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FilePart, FinishReason, ModelInfo


def conversation_title(conversation: ConversationRecord) -> str:
    """One line that names it."""
    return sanitize_line(conversation.title) or f"Conversation {sanitize_line(conversation.id)}"


def format_minute(time: datetime) -> str:
    """For people: to the minute, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_iso(time: datetime) -> str:
    """For programs: to the second, in UTC."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def answering_models(turns: tuple[TurnRecord, ...]) -> tuple[ModelInfo, ...]:
    """The models that answered, each once, in order of appearance."""
    return tuple(dict.fromkeys(turn.model for turn in turns if turn.model is not None))


def answering_model_name(turn: TurnRecord) -> str:
    """Who answered, as one line."""
    return sanitize_line(turn.model.name) if turn.model else "Assistant"


def format_generation(turn: TurnRecord) -> str:
    """How the answer was made: seed, the parameters, tokens, speed; "" when nothing is known."""
    parts: list[str] = []
    if turn.seed is not None:
        parts.append(f"seed {turn.seed}")
    if turn.params is not None:
        parts.append(f"temperature {turn.params.temperature:g}")
        if turn.params.temperature > 0:
            parts.append(f"top-k {turn.params.top_k}")
            parts.append(f"top-p {turn.params.top_p:g}")
            parts.append(f"min-p {turn.params.min_p:g}")
        if turn.params.repeat_penalty != 1:
            parts.append(f"repeat penalty {turn.params.repeat_penalty:g}")
    if turn.usage is not None and turn.usage.completion_tokens:
        parts.append(f"{turn.usage.completion_tokens:,} tokens")
    if turn.timings is not None and turn.timings.tokens_per_second:
        parts.append(f"{turn.timings.tokens_per_second:.1f} tokens/s")
    return ", ".join(parts)


def incompleteness_notes(turn: TurnRecord) -> Iterator[str]:
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
            yield "This answer failed" + (f": {sanitize_line(turn.error)}" if turn.error else ".")
        case FinishReason.STOP:
            pass


def attachment_label(part: FilePart) -> str:
    """Return the name and the size of an attached file, one line."""
    size = f"{part.size:,} bytes" if part.size < 1000 else f"{part.size / 1000:,.1f} kB"
    return f"{sanitize_line(part.name)} · {size}"


def code_warnings(turn: TurnRecord) -> tuple[str, ...]:
    """What the code check warned of; single lines."""
    return tuple(sanitize_line(warning) for warning in turn.code.warnings) if turn.code else ()


def hidden_turns_note(conversation: ConversationRecord) -> str:
    """A line about the turns that stand in other branches; "" when there are none."""
    hidden = len(conversation.turns) - len(conversation.get_branch())
    if not hidden:
        return ""
    return f"{hidden} {'turn' if hidden == 1 else 'turns'} of other branches are not shown; the JSON export has them."
