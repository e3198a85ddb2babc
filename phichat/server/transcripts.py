"""Requests in the transcripts: a client sends a whole conversation each time, and it is kept once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock

from phichat.chat.completion import system_prompt
from phichat.codecheck.stream import check_code
from phichat.events import Event, ModelReady, TurnFinished
from phichat.server.model_provider import ServedModel
from phichat.transcript.ids import make_ascending_ids
from phichat.transcript.recorder import Recorder
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.store import TranscriptStore
from phichat.transcript.turn_writer import derive_title
from phichat.types import FinishReason, Message, Role

_MAX_TRACKED = 1_000
"""Conversations that a client may go on with; an older one is kept again as a new one."""


@dataclass(frozen=True, slots=True)
class _StoredPosition:
    """Where a conversation stands in the store."""

    conversation_id: str
    turn_id: str


class ConversationTracker:
    """Recognises a conversation by all that was said in it. From any thread."""

    def __init__(self, open_store: Callable[[], TranscriptStore]) -> None:
        self._open_store = open_store
        self._positions: OrderedDict[bytes, _StoredPosition] = OrderedDict()
        self._loaded_models: dict[str, ModelReady] = {}
        self._lock = Lock()

    def record_events(
        self, model: ServedModel, messages: tuple[Message, ...], events: Iterator[Event]
    ) -> Iterator[Event]:
        """The events of one exchange, each written down before it is passed on."""
        system, (earlier, current) = system_prompt(messages), to_turns(messages)
        recorder = self._create_recorder(system, earlier)
        if loaded_model := self._loaded_models.get(model.name):
            recorder.on_model_loaded(loaded_model)
        try:
            for event in recorder.record_events(check_code(events, model.training_scope)):
                match event:
                    case ModelReady():
                        self._loaded_models[model.name] = event
                    case TurnFinished() if recorder.conversation_id and recorder.parent_id:
                        turns = (*earlier, replace(current, reply=event.text))
                        self._track_position(
                            _history_key(system, turns), _StoredPosition(recorder.conversation_id, recorder.parent_id)
                        )
                    case _:
                        pass
                yield event
        finally:
            recorder.close()

    def _create_recorder(self, system: str | None, earlier: Sequence[TurnText]) -> Recorder:
        with self._lock:
            position = self._positions.get(_history_key(system, earlier)) if earlier else None
        if position is not None:
            return Recorder(self._open_store, position.conversation_id, position.turn_id)
        if not earlier:
            return Recorder(self._open_store)
        record = _build_record(system, earlier)

        def open_with_history() -> TranscriptStore:
            store = self._open_store()
            store.add_conversation(record)
            return store

        return Recorder(open_with_history, record.id, record.head)

    def _track_position(self, key: bytes, position: _StoredPosition) -> None:
        with self._lock:
            self._positions[key] = position
            self._positions.move_to_end(key)
            while len(self._positions) > _MAX_TRACKED:
                self._positions.popitem(last=False)


@dataclass(frozen=True, slots=True)
class TurnText:
    """A prompt and its reply; either may be missing where a client sends messages in another order."""

    prompt: str = ""
    reply: str = ""


def to_turns(messages: Sequence[Message]) -> tuple[tuple[TurnText, ...], TurnText]:
    """The turns before the last message of a user, and that one, with what may stand behind it already."""
    turns: list[TurnText] = []
    for message in messages:
        match message.role:
            case Role.USER:
                turns.append(TurnText(message.text))
            case Role.ASSISTANT if turns and not turns[-1].reply:
                turns[-1] = replace(turns[-1], reply=message.text)
            case Role.ASSISTANT:
                turns.append(TurnText("", message.text))
            case Role.SYSTEM:
                pass
    return tuple(turns[:-1]), turns[-1] if turns else TurnText()


def _history_key(system: str | None, turns: Sequence[TurnText]) -> bytes:
    history_text = repr((system, [(turn.prompt, turn.reply.strip()) for turn in turns]))
    return hashlib.sha256(history_text.encode("utf-8", "surrogatepass")).digest()


def _build_record(system: str | None, turns: Sequence[TurnText]) -> ConversationRecord:
    """What a client says was said before; phichat was not there."""
    now, new_id = datetime.now(UTC), make_ascending_ids()
    records: list[TurnRecord] = []
    for turn in turns:
        parent = records[-1].id if records else None
        finish_reason = FinishReason.STOP if turn.reply else FinishReason.CANCELLED
        records.append(
            TurnRecord(
                new_id(now),
                parent,
                now,
                turn.prompt,
                text=turn.reply,
                system=system,
                finished_at=now,
                finish_reason=finish_reason,
            )
        )
    title = derive_title(next((turn.prompt for turn in turns if turn.prompt), ""))
    return ConversationRecord(new_id(now), title, now, now, tuple(records), records[-1].id)
