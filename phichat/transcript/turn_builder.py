"""A TurnRecord from the events of its turn: the only place that makes one of them."""

from dataclasses import fields, replace
from datetime import UTC, datetime

from phichat import events
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo


class TurnRecordBuilder:
    """Builds the record of one turn. texts, reasonings: streamed pieces; one thread appends to them, others read."""

    def __init__(self, event: events.TurnStarted, id_: str, parent: str | None, model: ModelInfo | None) -> None:
        """model: the one that is loaded already, None where the turn loads it."""
        sent = {field.name: getattr(event, field.name) for field in fields(event)}
        self.record = TurnRecord(id_, parent, datetime.now(UTC), model=model, **sent)
        self.texts: list[str] = []
        self.reasonings: list[str] = []

    def apply(self, event: events.Event) -> None:
        """Update the turn by an event."""
        match event:
            case events.TextDelta():
                self.texts.append(event.text)
            case events.ReasoningDelta():
                self.reasonings.append(event.text)
            case events.ModelReady():
                self.record = replace(self.record, model=event.model)
            case events.CodeChecked():
                self.record = replace(self.record, code=event.report)
            case events.ContextTrimmed():
                self.record = replace(self.record, dropped_turns=event.dropped_turns, n_ctx=event.n_ctx)
            case events.TurnFinished():
                self.record = with_reply(self.record, event)

    def build(self) -> TurnRecord:
        """Return the turn as it is now: the whole reply, or the text streamed so far."""
        if self.record.finish_reason is not None:
            return self.record
        return replace(self.record, text="".join(self.texts), reasoning="".join(self.reasonings))

    def build_ended(self, reason: FinishReason) -> TurnRecord:
        """Return the turn, ended for this reason where its TurnFinished did not come."""
        if self.record.finish_reason is not None:
            return self.record
        return replace(self.build(), finished_at=datetime.now(UTC), finish_reason=reason)


def with_reply(record: TurnRecord, reply: events.TurnFinished) -> TurnRecord:
    """Return the record with a complete reply."""
    saved = {field.name: getattr(reply, field.name) for field in fields(reply) if field.name != "notices"}
    return replace(record, finished_at=datetime.now(UTC), **saved)
