"""The one place that writes the transcript while it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from phichat.errors import PhichatError, TranscriptError
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelReady,
    ReasoningDelta,
    SampleFinished,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
)
from phichat.transcript.debounce import DebouncedWorker
from phichat.transcript.ids import make_ascending_ids
from phichat.transcript.records import TurnRecord
from phichat.types import FinishReason, ModelInfo

if TYPE_CHECKING:
    from sqlite3 import Connection

    from phichat.transcript.store import TranscriptStore

_FSYNC_INTERVAL_S = 1.0
"""Between two commits of streamed text that wait for the disk."""


@dataclass(eq=False)
class _RecordedTurn:
    """A turn that is recorded. row: where it stands in the store, None while it does not.

    texts, reasonings: the pieces so far, the first `written` of each in the store. The thread that
    gets the events only appends to them, the other one only reads.
    path: of the model's file, as long as the store does not have the model.
    samples: other replies to the prompt, by number, which stand beside it; sample_rows: where in the store. winner:
    the one of them that is the turn's own.
    """

    record: TurnRecord
    row_id: int | None = None
    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    stored_counts: tuple[int, int] = (0, 0)
    model_path: str | None = None
    samples: dict[int, TurnRecord] = field(default_factory=dict)
    sample_row_ids: dict[int, int] = field(default_factory=dict)
    winner_index: int | None = None
    worker: DebouncedWorker | None = None


class Recorder:
    """Records turns of one conversation, one after the other.

    A store that fails takes nothing from the answer: a NotKept event tells it once, and what is not in
    the store is tried again with the end of the turn and with every later one.

    conversation: its id, None as long as nothing of it is kept.
    parent: the turn that the next one follows, afterwards that one. Set it to stand elsewhere in the tree.
    """

    def __init__(
        self,
        open_store: Callable[[], TranscriptStore],
        conversation_id: str | None = None,
        parent_id: str | None = None,
    ) -> None:
        """open_store: called when the first turn begins; may raise TranscriptError."""
        self.conversation_id = conversation_id
        self.parent_id = parent_id
        self._open_store = open_store
        self._store: TranscriptStore | None = None
        self._new_id = make_ascending_ids()
        self._model: ModelInfo | None = None
        self._model_path: str | None = None
        self._current: _RecordedTurn | None = None
        self._unsaved: list[_RecordedTurn] = []
        self._last_error: TranscriptError | None = None
        self._reported = False
        self._last_fsync_at = monotonic()

    def on_model_loaded(self, event: ModelReady) -> None:
        """What answers from now on, where it was loaded outside a turn."""
        self._model, self._model_path = event.model, event.path

    def record_events(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events of one turn, each written down before it is passed on; text at most 250 ms after.

        Whoever stops listening has cancelled the turn. Raises what `events` raises.
        """
        turn: _RecordedTurn | None = None
        try:
            for event in events:
                if isinstance(event, TurnStarted):
                    turn = self._start_turn(event)
                elif turn is not None:
                    self._handle_event(turn, event)
                if isinstance(event, TurnFinished):  # nothing comes after it
                    yield from self._iter_notices()
                    yield event
                else:
                    yield event
                    yield from self._iter_notices()
        except PhichatError as error:
            if turn is not None:
                self._finish_turn(turn, replace(_with_partial_text(turn, FinishReason.ERROR), error=str(error)))
            raise
        finally:
            self._abort_open_turn()

    def close(self) -> None:
        """Nothing more will be recorded."""
        self._abort_open_turn()
        if self._store is not None:
            with suppress(TranscriptError):  # what was committed stays so
                self._store.close()

    def _start_turn(self, event: TurnStarted) -> _RecordedTurn:
        now = datetime.now(UTC)
        turn = _RecordedTurn(
            TurnRecord(
                self._new_id(now),
                self.parent_id,
                now,
                event.prompt,
                system=event.system,
                model=self._model,
                params=event.params,
            )
        )
        turn.model_path = self._model_path
        self.parent_id = turn.record.id
        self._try_write(lambda: self._insert_turn(turn))
        turn.worker = DebouncedWorker(lambda: self._try_write(lambda: self._flush_text(turn)))
        self._current = turn
        return turn

    def _handle_event(self, turn: _RecordedTurn, event: Event) -> None:
        match event:
            case TextDelta():
                turn.texts.append(event.text)
            case ReasoningDelta():
                turn.reasonings.append(event.text)
            case ModelReady():
                self.on_model_loaded(event)
                turn.model_path = event.path
                turn.record = replace(turn.record, model=event.model)
            case CodeChecked():
                turn.record = replace(turn.record, code=event.report)
                return
            case ContextTrimmed():
                turn.record = replace(turn.record, dropped_turns=event.dropped_turns, n_ctx=event.n_ctx)
                return
            case SampleFinished():
                now = datetime.now(UTC)
                sample = replace(turn.record, id=self._new_id(now), created_at=now)
                turn.samples[event.index] = _with_result(sample, event.reply)
            case TurnFinished():
                answer_key = (event.seed, event.text, event.reasoning)
                turn.winner_index = next(
                    (
                        index
                        for index, sample_record in turn.samples.items()
                        if (sample_record.seed, sample_record.text, sample_record.reasoning) == answer_key
                    ),
                    None,
                )
                self._finish_turn(turn, _with_result(turn.record, event))
                return
            case _:
                return
        if turn.worker is not None:
            turn.worker.trigger()

    def _finish_turn(self, turn: _RecordedTurn, record: TurnRecord) -> None:
        if turn.worker is not None:
            turn.worker.stop()
        turn.record = record
        if not self._try_write(lambda: self._save_finished(turn)) and turn not in self._unsaved:
            self._unsaved.append(turn)
        turn.worker = self._current = None

    def _abort_open_turn(self) -> None:
        if self._current is not None:
            self._finish_turn(self._current, _with_partial_text(self._current, FinishReason.CANCELLED))

    def _insert_turn(self, turn: _RecordedTurn) -> None:
        """Write the beginning of a turn, and before it what could not be written of earlier ones."""
        # SQLite is not needed before somebody says something.
        from phichat.transcript.turn_writer import derive_title, finish_turn, insert_conversation, start_turn

        if self._store is None:
            self._store = self._open_store()
        conversation_id = self.conversation_id or self._new_id(turn.record.created_at)
        with self._store.database.write_transaction() as connection:
            if self.conversation_id is None:
                first = (self._unsaved[0] if self._unsaved else turn).record
                insert_conversation(connection, conversation_id, derive_title(first.prompt), first.created_at)
            for unsaved in self._unsaved:
                row = (
                    unsaved.row_id
                    if unsaved.row_id is not None
                    else start_turn(connection, conversation_id, unsaved.record)
                )
                finish_turn(connection, row, unsaved.record)
            turn.row_id = start_turn(connection, conversation_id, turn.record)
        self.conversation_id = conversation_id
        self._unsaved.clear()

    def _flush_text(self, turn: _RecordedTurn) -> None:
        from phichat.transcript.turn_writer import append_text, set_turn_model

        if turn.row_id is None:
            self._insert_turn(turn)
        assert self._store is not None and turn.row_id is not None
        if turn.model_path is not None and turn.record.model is not None:
            set_turn_model(self._store.database, turn.row_id, turn.record.model, turn.model_path)
            turn.model_path = None
        texts, reasonings = turn.stored_counts
        counts = len(turn.texts), len(turn.reasonings)
        text, reasoning = "".join(turn.texts[texts : counts[0]]), "".join(turn.reasonings[reasonings : counts[1]])
        if text or reasoning:
            durable = monotonic() - self._last_fsync_at > _FSYNC_INTERVAL_S
            append_text(self._store.database, turn.row_id, text, reasoning, durable=durable)
            if durable:
                self._last_fsync_at = monotonic()
        turn.stored_counts = counts
        if len(turn.samples) > len(turn.sample_row_ids):
            with self._store.database.write_transaction() as connection:
                rows = self._save_samples(turn, connection)
            turn.sample_row_ids |= rows

    def _save_samples(self, turn: _RecordedTurn, connection: Connection) -> dict[int, int]:
        """Write the samples that are not in the store, but for the winner; where they are then."""
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

        if turn.row_id is None:
            self._insert_turn(turn)
        assert self._store is not None and turn.row_id is not None
        with self._store.database.write_transaction() as connection:
            self._save_samples(turn, connection)
            if turn.winner_index in turn.sample_row_ids:
                delete_turns(connection, [turn.sample_row_ids[turn.winner_index]])
            finish_turn(connection, turn.row_id, turn.record)

    def _try_write(self, operation: Callable[[], None]) -> bool:
        try:
            operation()
        except TranscriptError as error:
            self._last_error = error
            return False
        self._last_error = None
        return True

    def _iter_notices(self) -> Iterator[TranscriptUnavailable]:
        last_error = self._last_error
        if last_error is not None and not self._reported:
            self._reported = True
            yield TranscriptUnavailable(str(last_error).removesuffix("."))


def _with_result(record: TurnRecord, event: TurnFinished) -> TurnRecord:
    return replace(
        record,
        text=event.text,
        reasoning=event.reasoning,
        finished_at=datetime.now(UTC),
        finish_reason=event.finish_reason,
        seed=event.seed,
        usage=event.usage,
        timings=event.timings,
        n_ctx=event.n_ctx,
        dropped_turns=event.dropped_turns,
    )


def _with_partial_text(turn: _RecordedTurn, reason: FinishReason) -> TurnRecord:
    """A turn whose end did not come, or was not listened to."""
    if turn.record.finish_reason is not None:
        return turn.record
    return replace(
        turn.record,
        text="".join(turn.texts),
        reasoning="".join(turn.reasonings),
        finished_at=datetime.now(UTC),
        finish_reason=reason,
    )
