"""Writes turns to the transcript while they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from phichat import events
from phichat.errors import PhichatError, TranscriptError
from phichat.transcript.debounce import DebouncedWorker
from phichat.transcript.ids import make_ascending_ids
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.turn_builder import TurnRecordBuilder, with_reply
from phichat.types import FinishReason

if TYPE_CHECKING:
    from sqlite3 import Connection

    from phichat.transcript.database import Database
    from phichat.transcript.store import TranscriptStore

_FSYNC_INTERVAL_S = 1.0
"""Between two commits of streamed text that wait for fsync."""

_WRITTEN_SOON = (events.TextDelta, events.ReasoningDelta, events.ModelReady, events.SampleFinished)


@dataclass(eq=False)
class _RecordedTurn:
    """A turn that is being recorded.

    record: as it was started or ended. row_id: in the store, None until it is written. stored_counts: the pieces of
    text and reasoning in the store. model_path: of the model's file, until the store has the model. samples: other
    replies, by index; sample_row_ids: of those in the store. winner_index: of the sample that is the turn's own reply.
    """

    builder: TurnRecordBuilder
    record: TurnRecord
    row_id: int | None = None
    stored_counts: tuple[int, int] = (0, 0)
    model_path: str | None = None
    samples: dict[int, TurnRecord] = field(default_factory=dict)
    sample_row_ids: dict[int, int] = field(default_factory=dict)
    winner_index: int | None = None
    worker: DebouncedWorker | None = None


class Recorder:
    """Records the turns of one conversation, one after the other.

    A store that fails does not interrupt the answer: one TranscriptUnavailable event reports it, and what is not in
    the store is tried again with the end of the turn and with every later one.

    conversation_id: None as long as nothing is saved. loaded_model: the one that answers from now on.
    parent_id: the turn that the next one follows, afterwards that one. Set it to branch off elsewhere.
    on_saved: called with the record of a turn that has ended, before its TurnFinished is passed on.
    """

    def __init__(
        self,
        open_store: Callable[[], TranscriptStore],
        conversation_id: str | None = None,
        parent_id: str | None = None,
        on_saved: Callable[[TurnRecord], None] = lambda record: None,
    ) -> None:
        """open_store: called when the first turn begins; may raise TranscriptError."""
        self.conversation_id, self.parent_id = conversation_id, parent_id
        self._open_store, self._on_saved = open_store, on_saved
        self._store: TranscriptStore | None = None
        self._new_id = make_ascending_ids()
        self.loaded_model: events.ModelReady | None = None
        self._current: _RecordedTurn | None = None
        self._unsaved: list[_RecordedTurn] = []
        self._last_error: TranscriptError | None = None
        self._reported = False
        self._last_fsync_at = monotonic()

    def record_events(self, turn_events: Iterator[events.Event]) -> Iterator[events.Event]:
        """Write each event of one turn before passing it on; text within 250 ms after.

        A consumer that stops iterating has cancelled the turn. Raises what `turn_events` raises.
        """
        turn: _RecordedTurn | None = None
        try:
            for event in turn_events:
                if isinstance(event, events.TurnStarted):
                    turn = self._start_turn(event)
                elif turn is not None:
                    self._handle_event(turn, event)
                if isinstance(event, events.TurnFinished):  # it must be the last event
                    yield from self._iter_notices()
                yield event
                yield from self._iter_notices()
        except PhichatError as error:
            if turn is not None:
                self._finish_turn(turn, replace(turn.builder.build_ended(FinishReason.ERROR), error=str(error)))
            raise
        finally:
            self._cancel_open_turn()

    def close(self) -> None:
        """End the open turn, and close the store."""
        self._cancel_open_turn()
        if self._store is not None:
            with suppress(TranscriptError):  # committed turns are safe
                self._store.close()

    def _start_turn(self, event: events.TurnStarted) -> _RecordedTurn:
        model, path = (self.loaded_model.model, self.loaded_model.path) if self.loaded_model else (None, None)
        builder = TurnRecordBuilder(event, self._new_id(datetime.now(UTC)), self.parent_id, model)
        turn = _RecordedTurn(builder, builder.record, model_path=path)
        self.parent_id = turn.record.id
        self._try_write(lambda: self._insert_turn(turn))
        turn.worker = DebouncedWorker(lambda: self._try_write(lambda: self._flush_text(turn)))
        self._current = turn
        return turn

    def _handle_event(self, turn: _RecordedTurn, event: events.Event) -> None:
        turn.builder.apply(event)
        match event:
            case events.ModelReady():
                self.loaded_model, turn.model_path = event, event.path
            case events.SampleFinished():
                now = datetime.now(UTC)
                sample = replace(turn.builder.record, id=self._new_id(now), created_at=now)
                turn.samples[event.index] = with_reply(sample, event.reply)
            case events.TurnFinished():
                reply = (event.seed, event.text, event.reasoning)
                same = (i for i, other in turn.samples.items() if (other.seed, other.text, other.reasoning) == reply)
                turn.winner_index = next(same, None)
                self._finish_turn(turn, turn.builder.build())
        if turn.worker is not None and isinstance(event, _WRITTEN_SOON):
            turn.worker.trigger()

    def _finish_turn(self, turn: _RecordedTurn, record: TurnRecord) -> None:
        if turn.worker is not None:
            turn.worker.stop()
        turn.record = record
        if self._try_write(lambda: self._save_finished(turn)):
            self._on_saved(record)
        elif turn not in self._unsaved:
            self._unsaved.append(turn)
        turn.worker = self._current = None

    def _cancel_open_turn(self) -> None:
        if self._current is not None:
            self._finish_turn(self._current, self._current.builder.build_ended(FinishReason.CANCELLED))

    def _insert_turn(self, turn: _RecordedTurn) -> None:
        """Write the beginning of a turn, after the earlier turns that could not be written."""
        # SQLite is not needed before the first turn.
        from phichat.transcript.turn_writer import derive_title, finish_turn, insert_conversation, start_turn

        if self._store is None:
            self._store = self._open_store()
        conversation_id = self.conversation_id or self._new_id(turn.record.created_at)
        with self._store.database.write_transaction() as connection:
            if self.conversation_id is None:
                first = (self._unsaved[0] if self._unsaved else turn).record
                title, began = derive_title(first.title_text), first.created_at
                insert_conversation(connection, ConversationRecord(conversation_id, title, began, began))
            for unsaved in self._unsaved:
                row = unsaved.row_id
                if row is None:
                    row = start_turn(connection, conversation_id, unsaved.record)
                finish_turn(connection, row, unsaved.record)
            turn.row_id = start_turn(connection, conversation_id, turn.record)
        self.conversation_id = conversation_id
        self._unsaved.clear()

    def _require_row(self, turn: _RecordedTurn) -> tuple[Database, int]:
        """Return where a turn is in the store, writing its beginning where that has failed."""
        if turn.row_id is None:
            self._insert_turn(turn)
        assert self._store is not None and turn.row_id is not None
        return self._store.database, turn.row_id

    def _flush_text(self, turn: _RecordedTurn) -> None:
        from phichat.transcript.turn_writer import append_text, set_turn_model

        database, row = self._require_row(turn)
        if turn.model_path is not None and (model := turn.builder.record.model):
            set_turn_model(database, row, model, turn.model_path)
            turn.model_path = None
        texts, reasonings = turn.builder.texts, turn.builder.reasonings
        counts = len(texts), len(reasonings)
        text = "".join(texts[turn.stored_counts[0] : counts[0]])
        reasoning = "".join(reasonings[turn.stored_counts[1] : counts[1]])
        if text or reasoning:
            durable = monotonic() - self._last_fsync_at > _FSYNC_INTERVAL_S
            append_text(database, row, text, reasoning, durable=durable)
            if durable:
                self._last_fsync_at = monotonic()
        turn.stored_counts = counts
        if len(turn.samples) > len(turn.sample_row_ids):
            with database.write_transaction() as connection:
                rows = self._save_samples(turn, connection)
            turn.sample_row_ids |= rows

    def _save_samples(self, turn: _RecordedTurn, connection: Connection) -> dict[int, int]:
        """Write the samples that are not in the store, but for the winner; return their row ids by index."""
        from phichat.transcript.turn_writer import finish_turn, start_turn

        assert self.conversation_id is not None
        rows = {}
        for index, record in tuple(turn.samples.items()):
            if index not in turn.sample_row_ids and index != turn.winner_index:
                rows[index] = start_turn(connection, self.conversation_id, record, set_head=False)
                finish_turn(connection, rows[index], record)
        return rows

    def _save_finished(self, turn: _RecordedTurn) -> None:
        from phichat.transcript.deletion import delete_turns
        from phichat.transcript.turn_writer import finish_turn

        database, row = self._require_row(turn)
        with database.write_transaction() as connection:
            self._save_samples(turn, connection)
            if turn.winner_index in turn.sample_row_ids:
                delete_turns(connection, [turn.sample_row_ids[turn.winner_index]])
            finish_turn(connection, row, turn.record)

    def _try_write(self, operation: Callable[[], None]) -> bool:
        try:
            operation()
        except TranscriptError as error:
            self._last_error = error
            return False
        self._last_error = None
        return True

    def _iter_notices(self) -> Iterator[events.TranscriptUnavailable]:
        if self._last_error is not None and not self._reported:
            self._reported = True
            yield events.TranscriptUnavailable(str(self._last_error).removesuffix("."))
