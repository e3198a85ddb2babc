"""Writes plain text for people."""

from collections.abc import Iterator, Sequence

from phichat.sanitize import sanitize
from phichat.transcript.export import metadata
from phichat.transcript.records import ConversationRecord
from phichat.types import FilePart


def write_text(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """Yield the text in pieces, each with its line ends."""
    for index, conversation in enumerate(conversations):
        title = metadata.conversation_title(conversation)
        gap, underline = "\n\n" * bool(index), "=" * min(len(title), 80)
        yield f"{gap}{title}\n{underline}\n{metadata.format_minute(conversation.created_at)}\n"
        if hidden := metadata.hidden_turns_note(conversation):
            yield f"({hidden})\n"
        for system, turn in metadata.iter_turns(conversation.get_branch()):
            if system:
                yield _format_message("System", system)
            for part in turn.parts:
                speaker = f"You, attached: {metadata.attachment_label(part)}" if isinstance(part, FilePart) else "You"
                yield _format_message(speaker, part.text)
            model = metadata.answering_model_name(turn)
            if turn.reasoning:
                yield _format_message(f"{model}, thinking", turn.reasoning)
            yield _format_message(model, turn.text)
            for line in (*metadata.incompleteness_notes(turn), *metadata.code_warnings(turn)):
                yield f"({line})\n"


def _format_message(speaker: str, text: str) -> str:
    return f"\n--- {speaker}\n{sanitize(text)}\n"
