"""A TurnRecord from the events of its turn: the only place that makes one of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelReady,
    ReasoningDelta,
    TextDelta,
    TurnFinished,
    TurnStarted,
)
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo


class TurnRecordBuilder:
    """Builds the record of one turn.

    texts, reasonings: the streamed pieces so far. One thread appends to them; others may read.
    """

    def __init__(self, event: TurnStarted, id_: str, parent: str | None, model: ModelInfo | None) -> None:
        """model: the one that is loaded already, None where the turn loads it."""
        self.record = TurnRecord(
            id_,
            parent,
            datetime.now(UTC),
            event.prompt,
            system=event.system,
            model=model,
            params=event.params,
            prompt_parts=event.prompt_parts,
        )
        self.texts: list[str] = []
        self.reasonings: list[str] = []

    def apply(self, event: Event) -> None:
        """Add what the event tells about the turn."""
        match event:
            case TextDelta():
                self.texts.append(event.text)
            case ReasoningDelta():
                self.reasonings.append(event.text)
            case ModelReady():
                self.record = replace(self.record, model=event.model)
            case CodeChecked():
                self.record = replace(self.record, code=event.report)
            case ContextTrimmed():
                self.record = replace(self.record, dropped_turns=event.dropped_turns, n_ctx=event.n_ctx)
            case TurnFinished():
                self.record = with_reply(self.record, event)
            case _:
                pass

    def build(self) -> TurnRecord:
        """Return the turn as it is now: the whole reply, or the text streamed so far."""
        if self.record.finish_reason is not None:
            return self.record
        return replace(self.record, text="".join(self.texts), reasoning="".join(self.reasonings))

    def build_ended(self, reason: FinishReason) -> TurnRecord:
        """Return the turn, ended for this reason where its TurnFinished did not come."""
        record = self.build()
        if record.finish_reason is not None:
            return record
        return replace(record, finished_at=datetime.now(UTC), finish_reason=reason)


def with_reply(record: TurnRecord, reply: TurnFinished) -> TurnRecord:
    """Return the record with a complete reply."""
    return replace(
        record,
        text=reply.text,
        reasoning=reply.reasoning,
        finished_at=datetime.now(UTC),
        finish_reason=reply.finish_reason,
        seed=reply.seed,
        usage=reply.usage,
        timings=reply.timings,
        n_ctx=reply.n_ctx,
        dropped_turns=reply.dropped_turns,
    )
