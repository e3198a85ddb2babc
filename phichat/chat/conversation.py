"""A conversation in memory: a tree of turns, and the head that the next turn follows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

from phichat.chat.context_window import Turn, TurnHistory
from phichat.chat.pipeline import TurnPipeline
from phichat.code_report import TrainingScope
from phichat.engine.backend import Backend, CancelToken
from phichat.events import Event, ModelReady, TurnStarted
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.turn_builder import TurnRecordBuilder
from phichat.types import Content, ModelInfo, SamplingParams

if TYPE_CHECKING:
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.store import TranscriptStore


@dataclass(frozen=True, slots=True)
class ConversationPersistence:
    """Writers of a conversation: the recorder of its turns, and the store for everything else.

    forget_kv_cache: removes the saved KV states of a conversation, by its id.
    """

    recorder: Recorder
    open_store: Callable[[], TranscriptStore]
    forget_kv_cache: Callable[[str], None]


class Conversation:
    """A tree of turns. None is ever overwritten: a regenerated reply and an edited prompt are further turns
    with the same parent.

    get_backend: called for each turn, so that the model may change in between.
    get_training_scope: what the model's code was mostly trained on, None where that is not known.
    persistence: None where nothing is saved; the turns then live as long as this object.
    """

    def __init__(
        self,
        get_backend: Callable[[], Backend],
        system: str | None = None,
        record: ConversationRecord | None = None,
        persistence: ConversationPersistence | None = None,
        get_training_scope: Callable[[], TrainingScope | None] = lambda: None,
    ) -> None:
        self.get_backend, self._get_training_scope = get_backend, get_training_scope
        self.system, self._persistence = system, persistence
        self._turns = {turn.id: turn for turn in record.turns} if record else {}
        self._head = record.head if record else None
        self._local_ids = count(1)
        self._model: ModelInfo | None = None

    @property
    def id(self) -> str | None:
        """The id of the saved conversation, None where nothing is saved yet."""
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
        """Set the model that answers from now on."""
        self._model = loaded_model.model
        if self._persistence:
            self._persistence.recorder.loaded_model = loaded_model

    def close(self) -> None:
        """Close the recorder; no more turns follow."""
        if self._persistence:
            self._persistence.recorder.close()

    def get_turn(self, id: str) -> TurnRecord:
        """Return a turn by its id."""
        return self._turns[id]

    def sibling_ids(self, turn_id: str) -> Sequence[str]:
        """Return the ids of all turns with the same parent as this one, the oldest first."""
        parent = self._turns[turn_id].parent
        return [other.id for other in self._turns.values() if other.parent == parent]

    def set_head(self, turn_id: str | None) -> None:
        """Continue from this turn; None is the beginning."""
        self._head = turn_id
        if self._persistence and self.id and turn_id:
            self._persistence.open_store().set_head(self.id, turn_id)

    def switch_to(self, turn_id: str) -> None:
        """Set the head to the newest descendant of this turn, to show the branch of a sibling."""
        head_id = turn_id
        while child_ids := [other.id for other in self._turns.values() if other.parent == head_id]:
            head_id = child_ids[-1]
        self.set_head(head_id)

    def remove_turn(self, turn_id: str) -> None:
        """Delete a turn and all that follow it, on every branch."""
        parent = self._turns[turn_id].parent
        removed_ids = {turn_id}
        for other in self._turns.values():  # a parent comes before its children
            if other.parent in removed_ids:
                removed_ids.add(other.id)
        head_removed = self._head in removed_ids
        self._turns = {id: other for id, other in self._turns.items() if id not in removed_ids}
        if self._persistence and self.id:
            self._persistence.open_store().delete_turn(self.id, turn_id)
            self._persistence.forget_kv_cache(self.id)
        if head_removed:
            self.set_head(parent)

    def send(self, prompt: Content, params: SamplingParams, cancel: CancelToken) -> Iterator[Event]:
        """Run one turn after the head, which it then is. Raises what `TurnPipeline.run` raises."""
        parent, turns = self._head, [Turn(turn.parts, turn.text) for turn in self.branch if turn.text]
        recorder = self._persistence.recorder if self._persistence else None
        if recorder:
            recorder.parent_id = parent
        pipeline = TurnPipeline(self.get_backend(), recorder, self._get_training_scope())
        builder: TurnRecordBuilder | None = None
        try:
            for event in pipeline.run(TurnHistory(self.system, turns, prompt), params, cancel):
                if isinstance(event, TurnStarted):
                    id_ = (recorder and recorder.parent_id) or f"unsaved-{next(self._local_ids)}"
                    builder = TurnRecordBuilder(event, id_, parent, self._model)
                elif builder:
                    builder.apply(event)
                if isinstance(event, ModelReady):
                    self.on_model_loaded(event)
                yield event
        finally:
            if builder:
                turn = builder.build()
                self._turns[turn.id], self._head = turn, turn.id
