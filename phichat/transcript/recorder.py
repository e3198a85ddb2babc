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
    NotKept,
    ReasoningDelta,
    SampleFinished,
    TextDelta,
    TurnFinished,
    TurnStarted,
)
from phichat.messages import FinishReason, ModelInfo
from phichat.transcript.ids import ascending_ids
from phichat.transcript.records import TurnRecord
from phichat.transcript.ticker import Ticker

if TYPE_CHECKING:
    from sqlite3 import Connection

    from phichat.transcript.store import Store

_DURABLE_S = 1.0
"""Between two commits of streamed text that wait for the disk."""


@dataclass(eq=False)
class _Turn:
    """A turn that is recorded. row: where it stands in the store, None while it does not.

    texts, reasonings: the pieces so far, the first `written` of each in the store. The thread that
    gets the events only appends to them, the other one only reads.
    path: of the model's file, as long as the store does not have the model.
    samples: other replies to the prompt, by number, which stand beside it; sample_rows: where in the store. winner:
    the one of them that is the turn's own.
    """

    record: TurnRecord
    row: int | None = None
    texts: list[str] = field(default_factory=list)
    reasonings: list[str] = field(default_factory=list)
    written: tuple[int, int] = (0, 0)
    path: str | None = None
    samples: dict[int, TurnRecord] = field(default_factory=dict)
    sample_rows: dict[int, int] = field(default_factory=dict)
    winner: int | None = None
    ticker: Ticker | None = None


class Recorder:
    """Records turns of one conversation, one after the other.

    A store that fails takes nothing from the answer: a NotKept event tells it once, and what is not in
    the store is tried again with the end of the turn and with every later one.

    conversation: its id, None as long as nothing of it is kept.
    parent: the turn that the next one follows, afterwards that one. Set it to stand elsewhere in the tree.
    """

    def __init__(
        self, open_store: Callable[[], Store], conversation: str | None = None, parent: str | None = None
    ) -> None:
        """open_store: called when the first turn begins; may raise TranscriptError."""
        self.conversation = conversation
        self.parent = parent
        self._open_store = open_store
        self._store: Store | None = None
        self._new_id = ascending_ids()
        self._model: ModelInfo | None = None
        self._path: str | None = None
        self._current: _Turn | None = None
        self._unkept: list[_Turn] = []
        self._trouble: TranscriptError | None = None
        self._told = False
        self._durable_at = monotonic()

    def loaded(self, ready: ModelReady) -> None:
        """What answers from now on, where it was loaded outside a turn."""
        self._model, self._path = ready.model, ready.path

    def record(self, events: Iterator[Event]) -> Iterator[Event]:
        """The events of one turn, each written down before it is passed on; text at most 250 ms after.

        Whoever stops listening has cancelled the turn. Raises what `events` raises.
        """
        turn: _Turn | None = None
        try:
            for event in events:
                if isinstance(event, TurnStarted):
                    turn = self._begin(event)
                elif turn is not None:
                    self._take(turn, event)
                if isinstance(event, TurnFinished):  # nothing comes after it
                    yield from self._news()
                    yield event
                else:
                    yield event
                    yield from self._news()
        except PhichatError as error:
            if turn is not None:
                self._end(turn, replace(_broken_off(turn, FinishReason.ERROR), error=str(error)))
            raise
        finally:
            self._break_off()

    def close(self) -> None:
        """Nothing more will be recorded."""
        self._break_off()
        if self._store is not None:
            with suppress(TranscriptError):  # what was committed stays so
                self._store.close()

    def _begin(self, event: TurnStarted) -> _Turn:
        now = datetime.now(UTC)
        turn = _Turn(
            TurnRecord(
                self._new_id(now),
                self.parent,
                now,
                event.prompt,
                system=event.system,
                model=self._model,
                params=event.params,
            )
        )
        turn.path = self._path
        self.parent = turn.record.id
        self._attempt(lambda: self._place(turn))
        turn.ticker = Ticker(lambda: self._attempt(lambda: self._flush(turn)))
        self._current = turn
        return turn

    def _take(self, turn: _Turn, event: Event) -> None:
        match event:
            case TextDelta():
                turn.texts.append(event.text)
            case ReasoningDelta():
                turn.reasonings.append(event.text)
            case ModelReady():
                self.loaded(event)
                turn.path = event.path
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
                turn.samples[event.number] = _finished(sample, event.reply)
            case TurnFinished():
                mine = (event.seed, event.text, event.reasoning)
                turn.winner = next(
                    (at for at, it in turn.samples.items() if (it.seed, it.text, it.reasoning) == mine), None
                )
                self._end(turn, _finished(turn.record, event))
                return
            case _:
                return
        if turn.ticker is not None:
            turn.ticker.wake()

    def _end(self, turn: _Turn, record: TurnRecord) -> None:
        if turn.ticker is not None:
            turn.ticker.stop()
        turn.record = record
        if not self._attempt(lambda: self._finish(turn)) and turn not in self._unkept:
            self._unkept.append(turn)
        turn.ticker = self._current = None

    def _break_off(self) -> None:
        if self._current is not None:
            self._end(self._current, _broken_off(self._current, FinishReason.CANCELLED))

    def _place(self, turn: _Turn) -> None:
        """Write the beginning of a turn, and before it what could not be written of earlier ones."""
        # SQLite is not needed before somebody says something.
        from phichat.transcript.live import begin_conversation, begin_turn, finish_turn, title_of

        if self._store is None:
            self._store = self._open_store()
        conversation = self.conversation or self._new_id(turn.record.created_at)
        with self._store.database.writing() as connection:
            if self.conversation is None:
                first = (self._unkept[0] if self._unkept else turn).record
                begin_conversation(connection, conversation, title_of(first.prompt), first.created_at)
            for earlier in self._unkept:
                row = earlier.row if earlier.row is not None else begin_turn(connection, conversation, earlier.record)
                finish_turn(connection, row, earlier.record)
            turn.row = begin_turn(connection, conversation, turn.record)
        self.conversation = conversation
        self._unkept.clear()

    def _flush(self, turn: _Turn) -> None:
        from phichat.transcript.live import append, name_model

        if turn.row is None:
            self._place(turn)
        assert self._store is not None and turn.row is not None
        if turn.path is not None and turn.record.model is not None:
            name_model(self._store.database, turn.row, turn.record.model, turn.path)
            turn.path = None
        texts, reasonings = turn.written
        now = len(turn.texts), len(turn.reasonings)
        said, thought = "".join(turn.texts[texts : now[0]]), "".join(turn.reasonings[reasonings : now[1]])
        if said or thought:
            durably = monotonic() - self._durable_at > _DURABLE_S
            append(self._store.database, turn.row, said, thought, durably=durably)
            if durably:
                self._durable_at = monotonic()
        turn.written = now
        if len(turn.samples) > len(turn.sample_rows):
            with self._store.database.writing() as connection:
                rows = self._keep_samples(turn, connection)
            turn.sample_rows |= rows

    def _keep_samples(self, turn: _Turn, connection: Connection) -> dict[int, int]:
        """Write the samples that are not in the store, but for the winner; where they are then."""
        from phichat.transcript.live import begin_turn, finish_turn

        assert self.conversation is not None
        rows = {}
        for number, record in tuple(turn.samples.items()):
            if number not in turn.sample_rows and number != turn.winner:
                rows[number] = begin_turn(connection, self.conversation, record, becomes_head=False)
                finish_turn(connection, rows[number], record)
        return rows

    def _finish(self, turn: _Turn) -> None:
        from phichat.transcript.live import finish_turn
        from phichat.transcript.removal import drop_turns

        if turn.row is None:
            self._place(turn)
        assert self._store is not None and turn.row is not None
        with self._store.database.writing() as connection:
            self._keep_samples(turn, connection)
            if turn.winner in turn.sample_rows:
                drop_turns(connection, [turn.sample_rows[turn.winner]])
            finish_turn(connection, turn.row, turn.record)

    def _attempt(self, step: Callable[[], None]) -> bool:
        try:
            step()
        except TranscriptError as why:
            self._trouble = why
            return False
        self._trouble = None
        return True

    def _news(self) -> Iterator[NotKept]:
        trouble = self._trouble
        if trouble is not None and not self._told:
            self._told = True
            yield NotKept(str(trouble).removesuffix("."))


def _finished(record: TurnRecord, event: TurnFinished) -> TurnRecord:
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


def _broken_off(turn: _Turn, reason: FinishReason) -> TurnRecord:
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
