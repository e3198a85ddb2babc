"""Plain text, to be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from phichat.terminal import clean
from phichat.transcript.export import facts
from phichat.transcript.records import ConversationRecord


def write(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """The text in pieces, each with its line ends."""
    for at, conversation in enumerate(conversations):
        title = facts.title(conversation)
        yield "\n\n" * bool(at) + f"{title}\n{'=' * min(len(title), 80)}\n{facts.when(conversation.created_at)}\n"
        if hidden := facts.others(conversation):
            yield f"({hidden})\n"
        system: str | None = None
        for turn in conversation.branch():
            if turn.system and turn.system != system:
                yield _said("System", turn.system)
            system = turn.system
            yield _said("You", turn.prompt)
            if turn.reasoning:
                yield _said(f"{facts.model_name(turn)}, thinking", turn.reasoning)
            yield _said(facts.model_name(turn), turn.text)
            for line in (*facts.remarks(turn), *facts.warnings(turn)):
                yield f"({line})\n"


def _said(who: str, text: str) -> str:
    return f"\n--- {who}\n{clean(text)}\n"
