"""Writes JSON Lines for OpenAI's fine-tuning: {"messages": [{"role", "content"}, ...]}.

One conversation per line: the shown branch, only turns whose answer ended by itself or at its token limit,
without reasoning, which the format cannot hold.
"""

from collections.abc import Iterator, Sequence

from phichat.sanitize import to_json
from phichat.transcript.export import metadata
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, Role


def write_jsonl(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """Yield one line for each conversation with a complete turn."""
    for conversation in conversations:
        messages: list[dict[str, str]] = []
        for system, turn in metadata.iter_turns(filter(_is_complete, conversation.get_branch())):
            if system:
                messages.append({"role": Role.SYSTEM, "content": system})
            messages.append({"role": Role.USER, "content": turn.prompt})
            messages.append({"role": Role.ASSISTANT, "content": turn.text})
        if messages:
            yield to_json({"messages": messages}) + "\n"


def describe_omissions(conversations: Sequence[ConversationRecord]) -> str:
    """Return one line about what `write_jsonl` leaves out; "" where it leaves out nothing."""
    turns = [turn for conversation in conversations for turn in conversation.get_branch()]
    unfinished = sum(not _is_complete(turn) for turn in turns)
    other_turns = sum(len(conversation.turns) for conversation in conversations) - len(turns)
    reasoning = sum(bool(turn.reasoning) for turn in turns if _is_complete(turn))
    omissions = (
        (unfinished, f"{unfinished} unfinished or empty {'turn' if unfinished == 1 else 'turns'}"),
        (other_turns, f"{metadata.count_turns(other_turns)} of other branches"),
        (reasoning, f"the reasoning of {metadata.count_turns(reasoning)}"),
    )
    parts = [text for count, text in omissions if count]
    return f"Left out: {', '.join(parts)}; the JSON export has everything." if parts else ""


def _is_complete(turn: TurnRecord) -> bool:
    return turn.finish_reason in (FinishReason.STOP, FinishReason.LENGTH) and bool(turn.text)
