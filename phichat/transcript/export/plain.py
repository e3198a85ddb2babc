"""Plain text, to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phichat.terminal import sanitize
from phichat.transcript.export import facts
from phichat.transcript.records import ConversationRecord


def write_text(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """The text in pieces, each with its line ends."""
    for index, conversation in enumerate(conversations):
        title = facts.conversation_title(conversation)
        yield (
            "\n\n" * bool(index)
            + f"{title}\n{'=' * min(len(title), 80)}\n{facts.format_minute(conversation.created_at)}\n"
        )
        if hidden := facts.hidden_turns_note(conversation):
            yield f"({hidden})\n"
        system: str | None = None
        for turn in conversation.get_branch():
            if turn.system and turn.system != system:
                yield _format_message("System", turn.system)
            system = turn.system
            yield _format_message("You", turn.prompt)
            if turn.reasoning:
                yield _format_message(f"{facts.answering_model_name(turn)}, thinking", turn.reasoning)
            yield _format_message(facts.answering_model_name(turn), turn.text)
            for line in (*facts.incompleteness_notes(turn), *facts.code_warnings(turn)):
                yield f"({line})\n"


def _format_message(speaker: str, text: str) -> str:
    return f"\n--- {speaker}\n{sanitize(text)}\n"
