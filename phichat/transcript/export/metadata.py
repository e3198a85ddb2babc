"""Metadata of conversations and turns for the readable formats."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from phichat.sanitize import sanitize_line
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FilePart, FinishReason, ModelInfo


def conversation_title(conversation: ConversationRecord) -> str:
    """Return one line that names a conversation."""
    return sanitize_line(conversation.title) or f"Conversation {sanitize_line(conversation.id)}"


def format_minute(time: datetime) -> str:
    """Return a time to the minute, in UTC, for people."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_iso(time: datetime) -> str:
    """Return a time to the second, in UTC, for programs."""
    return time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def answering_models(turns: tuple[TurnRecord, ...]) -> tuple[ModelInfo, ...]:
    """Return the models that answered, each once, in order of appearance."""
    return tuple(dict.fromkeys(turn.model for turn in turns if turn.model is not None))


def answering_model_name(turn: TurnRecord) -> str:
    """Return the name of the model that answered, one line."""
    return sanitize_line(turn.model.name) if turn.model else "Assistant"


def iter_turns(turns: Iterable[TurnRecord]) -> Iterator[tuple[str, TurnRecord]]:
    """Yield each turn with its system prompt, or with "" where that is the one of the turn before."""
    system: str | None = None
    for turn in turns:
        yield (turn.system or "" if turn.system != system else ""), turn
        system = turn.system


def format_details(turn: TurnRecord) -> str:
    """Return time, seed, parameters, tokens and speed of an answer, as far as they are known."""
    parts = [format_minute(turn.created_at)]
    if turn.seed is not None:
        parts.append(f"seed {turn.seed}")
    if (params := turn.params) is not None:
        parts.append(f"temperature {params.temperature:g}")
        if params.temperature > 0:
            parts += [f"top-k {params.top_k}", f"top-p {params.top_p:g}", f"min-p {params.min_p:g}"]
        if params.repeat_penalty != 1:
            parts.append(f"repeat penalty {params.repeat_penalty:g}")
    if turn.usage is not None and turn.usage.completion_tokens:
        parts.append(f"{turn.usage.completion_tokens:,} tokens")
    if turn.timings is not None and turn.timings.tokens_per_second:
        parts.append(f"{turn.timings.tokens_per_second:.1f} tokens/s")
    return ", ".join(parts)


def incompleteness_notes(turn: TurnRecord) -> Iterator[str]:
    """Yield notes, one line each, on an answer that is not simply complete."""
    if turn.dropped_turns:
        yield f"The model did not see the oldest {count_turns(turn.dropped_turns)}: they did not fit its context."
    match turn.finish_reason:
        case None:
            yield "This answer is being written." if turn.live else "This answer was cut off."
        case FinishReason.LENGTH:
            yield "This answer stopped at the token limit or at the end of the context."
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
    """Return the warnings of the code check, one line each."""
    return tuple(sanitize_line(warning) for warning in turn.code.warnings) if turn.code else ()


def hidden_turns_note(conversation: ConversationRecord) -> str:
    """Return a note on the turns of other branches; "" where there are none."""
    hidden = len(conversation.turns) - len(conversation.get_branch())
    return f"{count_turns(hidden)} of other branches are not shown; the JSON export has them." if hidden else ""


def count_turns(count: int) -> str:
    """Return a number of turns in words."""
    return f"{count} turn{'s' * (count != 1)}"
