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
    ModelChecking,
    ModelLoading,
    ModelReady,
    NotKept,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    Sampling,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Voted,
)
from phichat.messages import FinishReason, Timings, Usage
from phichat.tui.pieces import Block, GrowingAnswer, Kind, Piece

FOLDED_PROMPT = 12
"""Lines of a long prompt that are shown before somebody unfolds it."""


@dataclass(slots=True, eq=False)
class ShownTurn:
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
    report: CodeReport = field(default_factory=CodeReport)
    finished: TurnFinished | None = None
    cut_off: bool = False
    model: str = ""
    day: str = ""
    error: str = ""
    sibling: int = 1
    siblings: int = 1
    unfolded: bool = False
    version: int = 0
    _answer: GrowingAnswer = field(default_factory=GrowingAnswer)
    _thinks_since: float | None = None

    def apply(self, event: Event) -> None:
        """Take in one event of the turn."""
        self.version += 1
        match event:
            case ContextTrimmed():
                turns = "turn was" if event.dropped_turns == 1 else f"{event.dropped_turns} turns were"
                self.notices.append(
                    f"The oldest {turns} left out here: the context of {event.n_ctx:,} tokens is too small for them."
                )
            case ReasoningDelta():
                self._thinks_since = self._thinks_since or monotonic()
                self.reasoning += event.text
            case TextDelta():
                self._end_thinking()
                self.text += event.text
            case CodeChecked():
                self.report = event.report
            case TurnFinished():
                self._end_thinking()
                self.text, self.reasoning, self.finished = event.text, event.reasoning, event
                self.notices += event.notices
            case ModelReady():
                self.notices += event.notices
            case NotKept():
                self.notices.append(f"This is not being kept: {event.reason}.")
            case TurnStarted() | ModelChecking() | ModelLoading() | PromptProgress():
                pass
            case Sampling() | SampleFinished() | Voted():
                pass
            case _:
                assert_never(event)

    def _end_thinking(self) -> None:
        if self._thinks_since is not None:
            self.reasoning_s = monotonic() - self._thinks_since
            self._thinks_since = None

    def fail(self, error: str) -> None:
        """The turn ended in an error; what was said stays."""
        self.version += 1
        self.error = error

    def toggle(self) -> None:
        """Fold or unfold the reasoning and a long prompt."""
        self.version += 1
        self.unfolded = not self.unfolded

    @property
    def blocks(self) -> Sequence[Block]:
        """The blocks of the answer."""
        self._answer.update(self.text)
        return self._answer.blocks

    def pieces(self) -> list[Piece]:
        """What is shown, from top to bottom."""
        shown = [*self._prompt()]
        shown += [Piece(Kind.NOTICE, notice) for notice in self.notices]
        shown += self._reasoning()
        for block in self.blocks:
            shown += block.pieces
            shown += (Piece(Kind.WARNING, line) for line in self.warnings(block))
        shown += self._end()
        return shown

    def forget(self) -> None:
        """Keep no blocks until somebody wants to see them again."""
        self._answer = GrowingAnswer()

    def _prompt(self) -> list[Piece]:
        lines = self.prompt.split("\n", FOLDED_PROMPT)
        if self.unfolded or len(lines) <= FOLDED_PROMPT:
            return [Piece(Kind.PROMPT, self.prompt)]
        more = lines[-1].count("\n") + 1
        return [
            Piece(Kind.PROMPT, "\n".join(lines[:FOLDED_PROMPT])),
            Piece(Kind.META, f"… {more:,} more lines (space unfolds)"),
        ]

    def _reasoning(self) -> list[Piece]:
        if not self.reasoning:
            return []
        if self.reasoning_s is None and self.finished is None:
            last = self.reasoning[-300:].rpartition("\n")[2] if not self.unfolded else self.reasoning
            return [Piece(Kind.META, "▾ thinking"), Piece(Kind.REASONING, last)]
        took = "" if self.reasoning_s is None else f" for {self.reasoning_s:.1f} s"
        if self.unfolded:
            return [Piece(Kind.META, f"▾ thought{took}"), Piece(Kind.REASONING, self.reasoning)]
        return [Piece(Kind.META, f"▸ thought{took} (space unfolds)")]

    def warnings(self, block: Block) -> list[str]:
        """What the code check says of a block."""
        from phichat.codecheck.report import block_warnings

        return [
            line
            for checked in self.report.blocks
            if block.line <= checked.start_line <= block.last_line
            for line in block_warnings(checked)
        ]

    def _end(self) -> list[Piece]:
        ends: list[Piece] = []
        if self.error:
            ends.append(Piece(Kind.ERROR, self.error))
        about = []
        if self.siblings > 1:
            about.append(f"‹ {self.sibling} of {self.siblings} ›")
        if self.cut_off:
            about.append("cut off: phichat ended while it was being written")
        if self.finished is not None:
            about += _ending(self.finished)
        about += [part for part in (self.model, self.day) if part]
        if about:
            ends.append(Piece(Kind.META, " · ".join(about)))
        return ends


def shown(talk: Conversation) -> list[ShownTurn]:
    """The turns of a conversation, from the first to where it stands."""
    turns = []
    for record in talk.branch:
        same = talk.siblings(record.id)
        turn = ShownTurn(
            record.prompt,
            record.id,
            record.text,
            record.reasoning,
            report=record.code or CodeReport(),
            cut_off=record.finish_reason is None,
            model=record.model.name if record.model else "",
            day=f"{record.created_at.astimezone():%Y-%m-%d %H:%M}",
            error=record.error,
            sibling=same.index(record.id) + 1,
            siblings=len(same),
        )
        if record.finish_reason is not None:
            turn.finished = TurnFinished(
                record.text,
                record.reasoning,
                record.finish_reason,
                record.usage or Usage(),
                record.timings or Timings(),
                record.n_ctx,
                record.dropped_turns,
            )
        if record.dropped_turns:
            turn.apply(ContextTrimmed(record.dropped_turns, 0, record.n_ctx))
        turns.append(turn)
    return turns


def _ending(finished: TurnFinished) -> list[str]:
    said = []
    match finished.finish_reason:
        case FinishReason.CANCELLED:
            said.append("stopped")
        case FinishReason.LENGTH:
            said.append("ended at the limit of tokens")
        case FinishReason.STOP | FinishReason.ERROR:
            pass
    if finished.usage.completion_tokens:
        count = finished.usage.completion_tokens
        said.append(f"{count:,} {'token' if count == 1 else 'tokens'}")
    if finished.timings.tokens_per_second:
        said.append(f"{finished.timings.tokens_per_second:.1f} tokens/s")
    return said
