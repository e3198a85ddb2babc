"""Writes plain text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phichat.sanitize import sanitize
from phichat.transcript.export import metadata
from phichat.transcript.records import ConversationRecord
from phichat.types import FilePart


def write_text(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """Yield the text in pieces, each with its line ends."""
    for index, conversation in enumerate(conversations):
        title = metadata.conversation_title(conversation)
        yield (
            "\n\n" * bool(index)
            + f"{title}\n{'=' * min(len(title), 80)}\n{metadata.format_minute(conversation.created_at)}\n"
        )
        if hidden := metadata.hidden_turns_note(conversation):
            yield f"({hidden})\n"
        system: str | None = None
        for turn in conversation.get_branch():
            if turn.system and turn.system != system:
                yield _format_message("System", turn.system)
            system = turn.system
            for part in turn.parts:
                speaker = f"You, attached: {metadata.attachment_label(part)}" if isinstance(part, FilePart) else "You"
                yield _format_message(speaker, part.text)
            if turn.reasoning:
                yield _format_message(f"{metadata.answering_model_name(turn)}, thinking", turn.reasoning)
            yield _format_message(metadata.answering_model_name(turn), turn.text)
            for line in (*metadata.incompleteness_notes(turn), *metadata.code_warnings(turn)):
                yield f"({line})\n"


def _format_message(speaker: str, text: str) -> str:
    return f"\n--- {speaker}\n{sanitize(text)}\n"
