"""One conversation as a front end holds it: a tree of turns, and the place in it where one stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

from phichat.chat.context import Turn
from phichat.chat.session import Session
from phichat.code_report import CodeReport, CodeScope
from phichat.codecheck.stage import check_code
from phichat.engine.backend import Backend, Cancel
from phichat.events import CodeChecked, Event, ModelReady, ReasoningDelta, TextDelta, TurnFinished
from phichat.messages import GenerationParams, ModelInfo
from phichat.transcript.records import ConversationRecord, TurnRecord

if TYPE_CHECKING:
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.store import Store


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a conversation is written: the recorder of its turns, and the store for everything else.

    forget: removes what the engine keeps of a conversation, by its id.
    """

    recorder: Recorder
    store: Callable[[], Store]
    forget: Callable[[str], None]


@dataclass(slots=True)
class _Growing:
    """What was said of a turn until now."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    code: CodeReport | None = None
    finished: TurnFinished | None = None


class Conversation:
    """Turns are never overwritten: a reply made again and a prompt that was edited stand beside what
    there was, with the same parent.

    backend: called for each turn, so that the model may change in between.
    scope: what a model's code was mostly trained on, where its card says so.
    kept: None where nothing is to be kept; the turns then live as long as this object.
    """

    def __init__(
        self,
        backend: Callable[[], Backend],
        system: str | None = None,
        record: ConversationRecord | None = None,
        kept: Kept | None = None,
        scope: Callable[[], CodeScope | None] | None = None,
    ) -> None:
        self.backend, self.system, self._kept, self._scope = backend, system, kept, scope
        self._turns = {turn.id: turn for turn in record.turns} if record else {}
        self._head = record.head if record else None
        self._numbers = count(1)
        self._model: ModelInfo | None = None

    @property
    def id(self) -> str | None:
        """Of the kept conversation, None where nothing is kept yet."""
        return self._kept.recorder.conversation if self._kept else None

    @property
    def head(self) -> str | None:
        """The turn that the next one follows."""
        return self._head

    @property
    def branch(self) -> Sequence[TurnRecord]:
        """The turns from the first to the head."""
        path: list[TurnRecord] = []
        at = self._head
        while at is not None:
            path.append(self._turns[at])
            at = self._turns[at].parent
        return path[::-1]

    def loaded(self, ready: ModelReady) -> None:
        """What answers from now on, where it was loaded outside a turn."""
        self._model = ready.model
        if self._kept:
            self._kept.recorder.loaded(ready)

    def close(self) -> None:
        """Nothing more will be said."""
        if self._kept:
            self._kept.recorder.close()

    def turn(self, id: str) -> TurnRecord:
        """One turn."""
        return self._turns[id]

    def siblings(self, turn: str) -> Sequence[str]:
        """The turns at the place of this one, itself among them, the oldest first."""
        parent = self._turns[turn].parent
        return [other.id for other in self._turns.values() if other.parent == parent]

    def stand_at(self, turn: str | None) -> None:
        """Go on from this turn; None is the beginning."""
        self._head = turn
        if self._kept and self.id and turn:
            self._kept.store().set_head(self.id, turn)

    def show(self, turn: str) -> None:
        """Stand at the newest turn below this one: what one sees when one looks at a sibling."""
        at = turn
        while below := [other.id for other in self._turns.values() if other.parent == at]:
            at = below[-1]
        self.stand_at(at)

    def remove(self, turn: str) -> None:
        """Forget a turn and all that followed it, on every branch."""
        parent = self._turns[turn].parent
        below = {turn}
        for other in self._turns.values():  # a parent stands before its children
            if other.parent in below:
                below.add(other.id)
        gone = self._head in below
        self._turns = {id: other for id, other in self._turns.items() if id not in below}
        if self._kept and self.id:
            self._kept.store().remove_turn(self.id, turn)
            self._kept.forget(self.id)
        if gone:
            self.stand_at(parent)

    def send(self, prompt: str, params: GenerationParams, cancel: Cancel) -> Iterator[Event]:
        """One turn after the head, which it then is. Raises what `Session.send` raises."""
        parent = self._head
        history = [Turn(turn.prompt, turn.text) for turn in self.branch if turn.text]
        session = Session(self.backend(), self.system, history, lambda: self.id or "")
        events = check_code(session.send(prompt, params, cancel), self._scope() if self._scope else None)
        recorder = self._kept.recorder if self._kept else None
        if recorder:
            recorder.parent = parent
            events = recorder.record(events)
        began, said = datetime.now(UTC), _Growing()
        try:
            for event in events:
                self._take(event, said)
                yield event
        finally:
            id = (recorder and recorder.parent) or f"unkept-{next(self._numbers)}"
            self._turns[id] = self._turn(id, parent, began, prompt, params, said)
            self._head = id

    def _take(self, event: Event, said: _Growing) -> None:
        match event:
            case ModelReady():
                self.loaded(event)
            case TextDelta():
                said.text.append(event.text)
            case ReasoningDelta():
                said.reasoning.append(event.text)
            case CodeChecked():
                said.code = event.report
            case TurnFinished():
                said.finished = event
            case _:
                pass

    def _turn(
        self,
        id: str,
        parent: str | None,
        began: datetime,
        prompt: str,
        params: GenerationParams,
        said: _Growing,
    ) -> TurnRecord:
        turn = TurnRecord(
            id,
            parent,
            began,
            prompt,
            "".join(said.text),
            "".join(said.reasoning),
            self.system,
            model=self._model,
            params=params,
            code=said.code,
        )
        done = said.finished
        if done is None:
            return turn
        return replace(
            turn,
            text=done.text,
            reasoning=done.reasoning,
            finished_at=datetime.now(UTC),
            finish_reason=done.finish_reason,
            seed=done.seed,
            usage=done.usage,
            timings=done.timings,
            n_ctx=done.n_ctx,
            dropped_turns=done.dropped_turns,
        )
