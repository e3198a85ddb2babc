"""Recorder of requests: clients send their whole conversation each time, and it is saved once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock

from phichat.chat.context_window import MessageHistory
from phichat.events import ModelReady
from phichat.server.model_provider import ServedModel
from phichat.transcript.ids import make_ascending_ids
from phichat.transcript.recorder import Recorder
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.store import TranscriptStore
from phichat.transcript.turn_writer import derive_title
from phichat.types import FinishReason, Message, Role


class ConversationTracker:
    """Recognises a conversation by the text of its messages. Thread-safe."""

    def __init__(self, open_store: Callable[[], TranscriptStore]) -> None:
        self._open_store = open_store
        self._positions: OrderedDict[bytes, tuple[str, str]] = OrderedDict()
        """By the hash of its messages: id and last turn of a saved conversation."""
        self._loaded_models: dict[str, ModelReady] = {}
        self._lock = Lock()

    @contextmanager
    def open_recorder(self, model: ServedModel, messages: Sequence[Message]) -> Iterator[Recorder]:
        """Yield a recorder that continues the saved conversation of these messages, or begins one."""
        system, (earlier, current) = MessageHistory(tuple(messages)).system, _to_turns(messages)

        def on_saved(turn: TurnRecord) -> None:
            assert recorder.conversation_id is not None
            key = _history_key(system, (*earlier, replace(current, reply=turn.text)))
            with self._lock:
                self._positions[key] = recorder.conversation_id, turn.id
                self._positions.move_to_end(key)
                while len(self._positions) > 1_000:  # an older conversation is saved again as a new one
                    self._positions.popitem(last=False)

        def open_store() -> TranscriptStore:
            store = self._open_store()
            if record is not None:
                store.add_conversation(record)
            return store

        with self._lock:
            conversation_id, turn_id = self._positions.get(_history_key(system, earlier), (None, None))
        record = _build_record(system, earlier) if earlier and conversation_id is None else None
        if record is not None:
            conversation_id, turn_id = record.id, record.turns[-1].id
        recorder = Recorder(open_store, conversation_id, turn_id, on_saved)
        recorder.loaded_model = self._loaded_models.get(model.name)
        try:
            yield recorder
        finally:
            if recorder.loaded_model is not None:
                self._loaded_models[model.name] = recorder.loaded_model
            recorder.close()


@dataclass(frozen=True, slots=True)
class _TurnText:
    """A prompt and its reply; either may be missing where a client sends messages in another order."""

    prompt: str = ""
    reply: str = ""


def _to_turns(messages: Sequence[Message]) -> tuple[tuple[_TurnText, ...], _TurnText]:
    """Return the turns before the last message of the user, and that one, with a reply that may follow it already."""
    turns: list[_TurnText] = []
    for message in messages:
        match message.role:
            case Role.USER:
                turns.append(_TurnText(message.text))
            case Role.ASSISTANT if turns and not turns[-1].reply:
                turns[-1] = replace(turns[-1], reply=message.text)
            case Role.ASSISTANT:
                turns.append(_TurnText("", message.text))
    return tuple(turns[:-1]), turns[-1] if turns else _TurnText()


def _history_key(system: str | None, turns: Sequence[_TurnText]) -> bytes:
    history_text = repr((system, [(turn.prompt, turn.reply.strip()) for turn in turns]))
    return hashlib.sha256(history_text.encode("utf-8", "surrogatepass")).digest()


def _build_record(system: str | None, turns: Sequence[_TurnText]) -> ConversationRecord:
    """Return the earlier turns that a client sent as a conversation; phichat did not generate them."""
    now, new_id = datetime.now(UTC), make_ascending_ids()
    records: list[TurnRecord] = []
    for turn in turns:
        parent = records[-1].id if records else None
        reason = FinishReason.STOP if turn.reply else FinishReason.CANCELLED
        record = TurnRecord(
            new_id(now), parent, now, turn.prompt, turn.reply, system=system, finished_at=now, finish_reason=reason
        )
        records.append(record)
    title = derive_title(next((turn.prompt for turn in turns if turn.prompt), ""))
    return ConversationRecord(new_id(now), title, now, now, tuple(records), records[-1].id)
