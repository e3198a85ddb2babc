"""Requests in the transcripts: a client sends a whole conversation each time, and it is kept once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock

from phichat.chat.exchange import system_of
from phichat.codecheck.stage import check_code
from phichat.events import Event, ModelReady, TurnFinished
from phichat.messages import FinishReason, Message, Role
from phichat.server.menu import Offer
from phichat.transcript.ids import ascending_ids
from phichat.transcript.live import title_of
from phichat.transcript.recorder import Recorder
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.store import Store

_REMEMBERED = 1_000
"""Conversations that a client may go on with; an older one is kept again as a new one."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a conversation stands in the store."""

    conversation: str
    turn: str


class Keeping:
    """Recognises a conversation by all that was said in it. From any thread."""

    def __init__(self, open_store: Callable[[], Store]) -> None:
        self._open_store = open_store
        self._known: OrderedDict[bytes, _Place] = OrderedDict()
        self._loaded: dict[str, ModelReady] = {}
        self._lock = Lock()

    def record(self, offer: Offer, messages: tuple[Message, ...], events: Iterator[Event]) -> Iterator[Event]:
        """The events of one exchange, each written down before it is passed on."""
        system, (before, asked) = system_of(messages), split(messages)
        recorder = self._recorder(system, before)
        if ready := self._loaded.get(offer.name):
            recorder.loaded(ready)
        try:
            for event in recorder.record(check_code(events, offer.scope)):
                match event:
                    case ModelReady():
                        self._loaded[offer.name] = event
                    case TurnFinished() if recorder.conversation and recorder.parent:
                        turns = (*before, replace(asked, text=event.text))
                        self._remember(_key(system, turns), _Place(recorder.conversation, recorder.parent))
                    case _:
                        pass
                yield event
        finally:
            recorder.close()

    def _recorder(self, system: str | None, before: Sequence[Said]) -> Recorder:
        with self._lock:
            place = self._known.get(_key(system, before)) if before else None
        if place is not None:
            return Recorder(self._open_store, place.conversation, place.turn)
        if not before:
            return Recorder(self._open_store)
        record = _record(system, before)

        def opened() -> Store:
            store = self._open_store()
            store.add(record)
            return store

        return Recorder(opened, record.id, record.head)

    def _remember(self, key: bytes, place: _Place) -> None:
        with self._lock:
            self._known[key] = place
            self._known.move_to_end(key)
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Said:
    """A prompt and its reply; either may be missing where a client sends messages in another order."""

    prompt: str = ""
    text: str = ""


def split(messages: Sequence[Message]) -> tuple[tuple[Said, ...], Said]:
    """The turns before the last message of a user, and that one, with what may stand behind it already."""
    turns: list[Said] = []
    for message in messages:
        match message.role:
            case Role.USER:
                turns.append(Said(message.text))
            case Role.ASSISTANT if turns and not turns[-1].text:
                turns[-1] = replace(turns[-1], text=message.text)
            case Role.ASSISTANT:
                turns.append(Said("", message.text))
            case Role.SYSTEM:
                pass
    return tuple(turns[:-1]), turns[-1] if turns else Said()


def _key(system: str | None, turns: Sequence[Said]) -> bytes:
    whole = repr((system, [(turn.prompt, turn.text.strip()) for turn in turns]))
    return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).digest()


def _record(system: str | None, turns: Sequence[Said]) -> ConversationRecord:
    """What a client says was said before; phichat was not there."""
    now, new_id = datetime.now(UTC), ascending_ids()
    records: list[TurnRecord] = []
    for turn in turns:
        parent = records[-1].id if records else None
        ended = FinishReason.STOP if turn.text else FinishReason.CANCELLED
        records.append(
            TurnRecord(
                new_id(now),
                parent,
                now,
                turn.prompt,
                text=turn.text,
                system=system,
                finished_at=now,
                finish_reason=ended,
            )
        )
    title = title_of(next((turn.prompt for turn in turns if turn.prompt), ""))
    return ConversationRecord(new_id(now), title, now, now, tuple(records), records[-1].id)
