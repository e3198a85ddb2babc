"""One turn as it is shown: what the events, or the transcript, have said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import assert_never

from phichat.chat.conversation import Conversation
from phichat.code_report import CodeReport
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
    VoteResult,
)
from phichat.tui.render.blocks import AnswerBlock, ItemKind, RenderItem, StreamingBlocks
from phichat.types import FinishReason, Timings, Usage

FOLDED_PROMPT_LINES = 12
"""Lines of a long prompt that are shown before somebody unfolds it."""


@dataclass(slots=True, eq=False)
class TurnView:
    """A prompt and its reply, growing while events are applied.

    model, day: what answered, and when, where that was not just now.
    sibling, siblings: which of how many replies at this place it is, from 1.
    """

    prompt: str
    id: str = ""
    text: str = ""
    reasoning: str = ""
    reasoning_s: float | None = None
    notices: list[str] = field(default_factory=list)
    code_report: CodeReport = field(default_factory=CodeReport)
    finish_event: TurnFinished | None = None
    is_cut_off: bool = False
    model: str = ""
    created_at: str = ""
    error: str = ""
    sibling_number: int = 1
    sibling_count: int = 1
    is_unfolded: bool = False
    version: int = 0
    _answer_blocks: StreamingBlocks = field(default_factory=StreamingBlocks)
    _reasoning_start: float | None = None

    def apply_event(self, event: Event) -> None:
        """Take in one event of the turn."""
        self.version += 1
        match event:
            case ContextTrimmed():
                turns = "turn was" if event.dropped_turns == 1 else f"{event.dropped_turns} turns were"
                self.notices.append(
                    f"The oldest {turns} left out here: the context of {event.n_ctx:,} tokens is too small for them."
                )
            case ReasoningDelta():
                self._reasoning_start = self._reasoning_start or monotonic()
                self.reasoning += event.text
            case TextDelta():
                self._end_reasoning()
                self.text += event.text
            case CodeChecked():
                self.code_report = event.report
            case TurnFinished():
                self._end_reasoning()
                self.text, self.reasoning, self.finish_event = event.text, event.reasoning, event
                self.notices += event.notices
            case ModelReady():
                self.notices += event.notices
            case TranscriptUnavailable():
                self.notices.append(f"This is not being kept: {event.reason}.")
            case TurnStarted() | ModelVerifying() | ModelLoading() | PromptProgress():
                pass
            case SamplingProgress() | SampleFinished() | VoteResult():
                pass
            case _:
                assert_never(event)

    def _end_reasoning(self) -> None:
        if self._reasoning_start is not None:
            self.reasoning_s = monotonic() - self._reasoning_start
            self._reasoning_start = None

    def set_error(self, error: str) -> None:
        """The turn ended in an error; what was said stays."""
        self.version += 1
        self.error = error

    def toggle_fold(self) -> None:
        """Fold or unfold the reasoning and a long prompt."""
        self.version += 1
        self.is_unfolded = not self.is_unfolded

    @property
    def blocks(self) -> Sequence[AnswerBlock]:
        """The blocks of the answer."""
        self._answer_blocks.update(self.text)
        return self._answer_blocks.blocks

    def render_items(self) -> list[RenderItem]:
        """What is shown, from top to bottom."""
        items = [*self._prompt_items()]
        items += [RenderItem(ItemKind.NOTICE, notice) for notice in self.notices]
        items += self._reasoning_items()
        for block in self.blocks:
            items += block.items
            items += (RenderItem(ItemKind.WARNING, line) for line in self.block_warning_lines(block))
        items += self._footer_items()
        return items

    def drop_cache(self) -> None:
        """Keep no blocks until somebody wants to see them again."""
        self._answer_blocks = StreamingBlocks()

    def _prompt_items(self) -> list[RenderItem]:
        lines = self.prompt.split("\n", FOLDED_PROMPT_LINES)
        if self.is_unfolded or len(lines) <= FOLDED_PROMPT_LINES:
            return [RenderItem(ItemKind.PROMPT, self.prompt)]
        hidden_lines = lines[-1].count("\n") + 1
        return [
            RenderItem(ItemKind.PROMPT, "\n".join(lines[:FOLDED_PROMPT_LINES])),
            RenderItem(ItemKind.META, f"… {hidden_lines:,} more lines (space unfolds)"),
        ]

    def _reasoning_items(self) -> list[RenderItem]:
        if not self.reasoning:
            return []
        if self.reasoning_s is None and self.finish_event is None:
            last = self.reasoning[-300:].rpartition("\n")[2] if not self.is_unfolded else self.reasoning
            return [RenderItem(ItemKind.META, "▾ thinking"), RenderItem(ItemKind.REASONING, last)]
        duration = "" if self.reasoning_s is None else f" for {self.reasoning_s:.1f} s"
        if self.is_unfolded:
            return [RenderItem(ItemKind.META, f"▾ thought{duration}"), RenderItem(ItemKind.REASONING, self.reasoning)]
        return [RenderItem(ItemKind.META, f"▸ thought{duration} (space unfolds)")]

    def block_warning_lines(self, block: AnswerBlock) -> list[str]:
        """What the code check says of a block."""
        from phichat.codecheck.checker import format_block_warnings

        return [
            line
            for checked in self.code_report.blocks
            if block.line <= checked.start_line <= block.last_line
            for line in format_block_warnings(checked)
        ]

    def _footer_items(self) -> list[RenderItem]:
        items: list[RenderItem] = []
        if self.error:
            items.append(RenderItem(ItemKind.ERROR, self.error))
        details = []
        if self.sibling_count > 1:
            details.append(f"‹ {self.sibling_number} of {self.sibling_count} ›")
        if self.is_cut_off:
            details.append("cut off: phichat ended while it was being written")
        if self.finish_event is not None:
            details += _format_finish(self.finish_event)
        details += [part for part in (self.model, self.created_at) if part]
        if details:
            items.append(RenderItem(ItemKind.META, " · ".join(details)))
        return items


def build_turn_views(conversation: Conversation) -> list[TurnView]:
    """The turns of a conversation, from the first to where it stands."""
    turns = []
    for record in conversation.branch:
        sibling_ids = conversation.sibling_ids(record.id)
        turn = TurnView(
            record.prompt,
            record.id,
            record.text,
            record.reasoning,
            code_report=record.code or CodeReport(),
            is_cut_off=record.finish_reason is None,
            model=record.model.name if record.model else "",
            created_at=f"{record.created_at.astimezone():%Y-%m-%d %H:%M}",
            error=record.error,
            sibling_number=sibling_ids.index(record.id) + 1,
            sibling_count=len(sibling_ids),
        )
        if record.finish_reason is not None:
            turn.finish_event = TurnFinished(
                record.text,
                record.reasoning,
                record.finish_reason,
                record.usage or Usage(),
                record.timings or Timings(),
                record.n_ctx,
                record.dropped_turns,
            )
        if record.dropped_turns:
            turn.apply_event(ContextTrimmed(record.dropped_turns, 0, record.n_ctx))
        turns.append(turn)
    return turns


def _format_finish(event: TurnFinished) -> list[str]:
    parts = []
    match event.finish_reason:
        case FinishReason.CANCELLED:
            parts.append("stopped")
        case FinishReason.LENGTH:
            parts.append("ended at the limit of tokens")
        case FinishReason.STOP | FinishReason.ERROR:
            pass
    if event.usage.completion_tokens:
        count = event.usage.completion_tokens
        parts.append(f"{count:,} {'token' if count == 1 else 'tokens'}")
    if event.timings.tokens_per_second:
        parts.append(f"{event.timings.tokens_per_second:.1f} tokens/s")
    return parts
