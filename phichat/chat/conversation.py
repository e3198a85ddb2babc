"""One conversation as a front end holds it: a tree of turns, and the place in it where one stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

from phichat.chat.context_window import Turn
from phichat.chat.session import Session
from phichat.code_report import CodeReport, TrainingScope
from phichat.codecheck.stream import check_code
from phichat.engine.backend import Backend, CancelToken
from phichat.events import CodeChecked, Event, ModelReady, ReasoningDelta, TextDelta, TurnFinished
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import ModelInfo, SamplingParams

if TYPE_CHECKING:
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.store import TranscriptStore


@dataclass(frozen=True, slots=True)
class ConversationPersistence:
    """Where a conversation is written: the recorder of its turns, and the store for everything else.

    forget: removes what the engine keeps of a conversation, by its id.
    """

    recorder: Recorder
    open_store: Callable[[], TranscriptStore]
    forget_kv_cache: Callable[[str], None]


@dataclass(slots=True)
class _TurnBuffer:
    """What was said of a turn until now."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    code_report: CodeReport | None = None
    finish_event: TurnFinished | None = None


class Conversation:
    """Turns are never overwritten: a reply made again and a prompt that was edited stand beside what
    there was, with the same parent.

    backend: called for each turn, so that the model may change in between.
    scope: what a model's code was mostly trained on, where its card says so.
    kept: None where nothing is to be kept; the turns then live as long as this object.
    """

    def __init__(
        self,
        get_backend: Callable[[], Backend],
        system: str | None = None,
        record: ConversationRecord | None = None,
        persistence: ConversationPersistence | None = None,
        get_training_scope: Callable[[], TrainingScope | None] | None = None,
    ) -> None:
        self.get_backend, self.system, self._persistence, self._get_training_scope = (
            get_backend,
            system,
            persistence,
            get_training_scope,
        )
        self._turns = {turn.id: turn for turn in record.turns} if record else {}
        self._head = record.head if record else None
        self._local_ids = count(1)
        self._model_info: ModelInfo | None = None

    @property
    def id(self) -> str | None:
        """Of the kept conversation, None where nothing is kept yet."""
        return self._persistence.recorder.conversation_id if self._persistence else None

    @property
    def head(self) -> str | None:
        """The turn that the next one follows."""
        return self._head

    @property
    def branch(self) -> Sequence[TurnRecord]:
        """The turns from the first to the head."""
        path: list[TurnRecord] = []
        turn_id = self._head
        while turn_id is not None:
            path.append(self._turns[turn_id])
            turn_id = self._turns[turn_id].parent
        return path[::-1]

    def on_model_loaded(self, loaded_model: ModelReady) -> None:
        """What answers from now on, where it was loaded outside a turn."""
        self._model_info = loaded_model.model
        if self._persistence:
            self._persistence.recorder.on_model_loaded(loaded_model)

    def close(self) -> None:
        """Nothing more will be said."""
        if self._persistence:
            self._persistence.recorder.close()

    def get_turn(self, id: str) -> TurnRecord:
        """One turn."""
        return self._turns[id]

    def sibling_ids(self, turn_id: str) -> Sequence[str]:
        """The turns at the place of this one, itself among them, the oldest first."""
        parent = self._turns[turn_id].parent
        return [other.id for other in self._turns.values() if other.parent == parent]

    def set_head(self, turn_id: str | None) -> None:
        """Go on from this turn; None is the beginning."""
        self._head = turn_id
        if self._persistence and self.id and turn_id:
            self._persistence.open_store().set_head(self.id, turn_id)

    def switch_to(self, turn_id: str) -> None:
        """Stand at the newest turn below this one: what one sees when one looks at a sibling."""
        head_id = turn_id
        while child_ids := [other.id for other in self._turns.values() if other.parent == head_id]:
            head_id = child_ids[-1]
        self.set_head(head_id)

    def remove_turn(self, turn_id: str) -> None:
        """Forget a turn and all that followed it, on every branch."""
        parent = self._turns[turn_id].parent
        removed_ids = {turn_id}
        for other in self._turns.values():  # a parent stands before its children
            if other.parent in removed_ids:
                removed_ids.add(other.id)
        head_removed = self._head in removed_ids
        self._turns = {id: other for id, other in self._turns.items() if id not in removed_ids}
        if self._persistence and self.id:
            self._persistence.open_store().delete_turn(self.id, turn_id)
            self._persistence.forget_kv_cache(self.id)
        if head_removed:
            self.set_head(parent)

    def send(self, prompt: str, params: SamplingParams, cancel: CancelToken) -> Iterator[Event]:
        """One turn after the head, which it then is. Raises what `Session.send` raises."""
        parent = self._head
        history = [Turn(turn.prompt, turn.text) for turn in self.branch if turn.text]
        session = Session(self.get_backend(), self.system, history, lambda: self.id or "")
        events = check_code(
            session.send(prompt, params, cancel), self._get_training_scope() if self._get_training_scope else None
        )
        recorder = self._persistence.recorder if self._persistence else None
        if recorder:
            recorder.parent_id = parent
            events = recorder.record_events(events)
        started_at, buffer = datetime.now(UTC), _TurnBuffer()
        try:
            for event in events:
                self._apply_event(event, buffer)
                yield event
        finally:
            id = (recorder and recorder.parent_id) or f"unkept-{next(self._local_ids)}"
            self._turns[id] = self._build_turn(id, parent, started_at, prompt, params, buffer)
            self._head = id

    def _apply_event(self, event: Event, buffer: _TurnBuffer) -> None:
        match event:
            case ModelReady():
                self.on_model_loaded(event)
            case TextDelta():
                buffer.text.append(event.text)
            case ReasoningDelta():
                buffer.reasoning.append(event.text)
            case CodeChecked():
                buffer.code_report = event.report
            case TurnFinished():
                buffer.finish_event = event
            case _:
                pass

    def _build_turn(
        self,
        id: str,
        parent: str | None,
        started_at: datetime,
        prompt: str,
        params: SamplingParams,
        buffer: _TurnBuffer,
    ) -> TurnRecord:
        turn = TurnRecord(
            id,
            parent,
            started_at,
            prompt,
            "".join(buffer.text),
            "".join(buffer.reasoning),
            self.system,
            model=self._model_info,
            params=params,
            code=buffer.code_report,
        )
        finish_event = buffer.finish_event
        if finish_event is None:
            return turn
        return replace(
            turn,
            text=finish_event.text,
            reasoning=finish_event.reasoning,
            finished_at=datetime.now(UTC),
            finish_reason=finish_event.finish_reason,
            seed=finish_event.seed,
            usage=finish_event.usage,
            timings=finish_event.timings,
            n_ctx=finish_event.n_ctx,
            dropped_turns=finish_event.dropped_turns,
        )
