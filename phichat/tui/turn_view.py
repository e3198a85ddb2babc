"""One turn as it is shown, built from events or from a record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import monotonic

from phichat import events
from phichat.chat.conversation import Conversation
from phichat.chat.presenter import TurnPresenter, format_trimmed, format_unavailable, present
from phichat.code_report import CodeReport
from phichat.transcript.records import TurnRecord
from phichat.tui.render.blocks import AnswerBlock, ItemKind, RenderItem, StreamingBlocks
from phichat.types import FilePart, FinishReason, Part, TextPart, Timings, Usage
from phichat.units import format_count, format_size

FOLDED_PROMPT_LINES = 12
"""Lines of a long prompt that are shown while it is folded."""


@dataclass(slots=True, eq=False)
class TurnView(TurnPresenter):
    """A prompt and its answer, which grows while events are applied.

    model, created_at: "" while the turn is running. sibling_number: from 1, of sibling_count answers to one place.
    version: changes whenever the turn has to be rendered again.
    """

    prompt: str
    id: str = ""
    text: str = ""
    reasoning: str = ""
    reasoning_s: float | None = None
    notices: list[str] = field(default_factory=list)
    code_report: CodeReport = field(default_factory=CodeReport)
    finish_event: events.TurnFinished | None = None
    is_cut_off: bool = False
    model: str = ""
    created_at: str = ""
    error: str = ""
    sibling_number: int = 1
    sibling_count: int = 1
    is_unfolded: bool = False
    parts: Sequence[Part] = ()
    version: int = 0
    _answer_blocks: StreamingBlocks = field(default_factory=StreamingBlocks)
    _reasoning_start: float | None = None

    def __post_init__(self) -> None:
        self.parts = self.parts or (TextPart(self.prompt),)

    def apply_event(self, event: events.Event) -> None:
        """Take in one event of the turn."""
        self.version += 1
        present(event, self)

    def on_context_trimmed(self, event: events.ContextTrimmed) -> None:
        self.notices.append(format_trimmed(event))

    def on_reasoning_delta(self, event: events.ReasoningDelta) -> None:
        self._reasoning_start = self._reasoning_start or monotonic()
        self.reasoning += event.text

    def on_text_delta(self, event: events.TextDelta) -> None:
        self._end_reasoning()
        self.text += event.text

    def on_code_checked(self, event: events.CodeChecked) -> None:
        self.code_report = event.report

    def on_model_ready(self, event: events.ModelReady) -> None:
        self.notices += event.notices

    def on_transcript_unavailable(self, event: events.TranscriptUnavailable) -> None:
        self.notices.append(format_unavailable(event))

    def on_turn_finished(self, event: events.TurnFinished) -> None:
        self._end_reasoning()
        self.text, self.reasoning, self.finish_event = event.text, event.reasoning, event
        self.notices += event.notices

    def _end_reasoning(self) -> None:
        if self._reasoning_start is not None:
            self.reasoning_s = monotonic() - self._reasoning_start
            self._reasoning_start = None

    def set_record(self, conversation: Conversation, record: TurnRecord) -> None:
        """Take over the place of the turn in the conversation, and the model that answered."""
        self.version += 1
        self.id, self.model = record.id, record.model.name if record.model else ""
        sibling_ids = conversation.sibling_ids(record.id)
        self.sibling_number, self.sibling_count = sibling_ids.index(record.id) + 1, len(sibling_ids)

    def toggle_fold(self) -> None:
        """Fold or unfold the reasoning, attached files and a long prompt."""
        self.version += 1
        self.is_unfolded = not self.is_unfolded

    @property
    def blocks(self) -> Sequence[AnswerBlock]:
        """Return the blocks of the answer."""
        self._answer_blocks.update(self.text)
        return self._answer_blocks.blocks

    def render_items(self) -> list[RenderItem]:
        """Return everything that is shown, from top to bottom."""
        items = [*self._prompt_items(), *(RenderItem(ItemKind.NOTICE, notice) for notice in self.notices)]
        items += self._reasoning_items()
        for block in self.blocks:
            items += block.items
            items += (RenderItem(ItemKind.WARNING, line) for line in self.block_warning_lines(block))
        items += self._footer_items()
        return items

    def drop_cache(self) -> None:
        """Free the blocks; they are parsed again when the turn is shown."""
        self._answer_blocks = StreamingBlocks()

    def _prompt_items(self) -> Iterator[RenderItem]:
        for part in self.parts:
            if isinstance(part, FilePart):
                mark = "▾" if self.is_unfolded else "▸"
                yield RenderItem(ItemKind.META, f"{mark} {part.name} · {format_size(part.size)}")
                if self.is_unfolded:
                    yield RenderItem(ItemKind.PROMPT, part.text.rstrip("\n"))
            elif self.is_unfolded or part.text.count("\n") < FOLDED_PROMPT_LINES:
                yield RenderItem(ItemKind.PROMPT, part.text)
            else:
                *shown, hidden = part.text.split("\n", FOLDED_PROMPT_LINES)
                yield RenderItem(ItemKind.PROMPT, "\n".join(shown))
                hidden_lines = hidden.count("\n") + 1
                yield RenderItem(ItemKind.META, f"… {hidden_lines:,} more lines (Ctrl+T, Space to expand)")

    def _reasoning_items(self) -> list[RenderItem]:
        if not self.reasoning:
            return []
        if self.reasoning_s is None and self.finish_event is None:
            last = self.reasoning[-300:].rpartition("\n")[2] if not self.is_unfolded else self.reasoning
            return [RenderItem(ItemKind.META, "▾ Thinking"), RenderItem(ItemKind.REASONING, last)]
        duration = "" if self.reasoning_s is None else f" for {self.reasoning_s:.1f} s"
        if self.is_unfolded:
            return [RenderItem(ItemKind.META, f"▾ Thought{duration}"), RenderItem(ItemKind.REASONING, self.reasoning)]
        return [RenderItem(ItemKind.META, f"▸ Thought{duration} (Ctrl+T, Space to expand)")]

    def block_warning_lines(self, block: AnswerBlock) -> list[str]:
        """Return the warnings of the code check about a block."""
        from phichat.codecheck.checker import format_block_warnings

        return [
            line
            for checked in self.code_report.blocks
            if block.line <= checked.start_line <= block.last_line
            for line in format_block_warnings(checked)
        ]

    def _footer_items(self) -> list[RenderItem]:
        details = [
            f"‹ {self.sibling_number} of {self.sibling_count} ›" if self.sibling_count > 1 else "",
            "cut off: phichat was closed while answering" if self.is_cut_off else "",
            *(_format_finish(self.finish_event) if self.finish_event else ()),
            *(self.model, self.created_at),
        ]
        items = [RenderItem(ItemKind.ERROR, self.error), RenderItem(ItemKind.META, " · ".join(filter(None, details)))]
        return [item for item in items if item.text]


def build_turn_view(conversation: Conversation, record: TurnRecord) -> TurnView:
    """Return the view of a turn of the conversation."""
    turn = TurnView(
        record.prompt,
        text=record.text,
        reasoning=record.reasoning,
        code_report=record.code or CodeReport(),
        is_cut_off=record.finish_reason is None,
        created_at=f"{record.created_at.astimezone():%Y-%m-%d %H:%M}",
        error=record.error,
        parts=record.parts,
    )
    turn.set_record(conversation, record)
    if record.finish_reason is not None:
        usage, timings = record.usage or Usage(), record.timings or Timings()
        turn.finish_event = events.TurnFinished(record.text, record.reasoning, record.finish_reason, usage, timings)
    if record.dropped_turns:
        turn.apply_event(events.ContextTrimmed(record.dropped_turns, 0, record.n_ctx))
    return turn


def _format_finish(event: events.TurnFinished) -> list[str]:
    labels = {FinishReason.CANCELLED: "stopped", FinishReason.LENGTH: "stopped at the token limit"}
    count, speed = event.usage.completion_tokens, event.timings.tokens_per_second
    return [
        labels.get(event.finish_reason, ""),
        format_count(count, "token") if count else "",
        f"{speed:.1f} tokens/s" if speed else "",
    ]
