"""What a chat has at hand: the parts of `wiring`, and the little that it remembers itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from phichat.chat.conversation import Conversation, Kept
from phichat.code_report import CodeScope
from phichat.config import Config
from phichat.engine.backend import Backend, Cancel
from phichat.engine.states import StateFolder
from phichat.errors import UsageError
from phichat.events import ModelReady
from phichat.messages import Message, Role
from phichat.paths import Paths, write_atomically
from phichat.shelf import Shelf

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationRecord
    from phichat.transcript.store import Store

_LISTED = 100
_LITTLE = "x"

EXPORTS = ("md", "html", "json", "jsonl", "txt")
"""The formats of `export`."""

FOUND, END = "\x02", "\x03"
"""What stands around the words found in a snippet."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A conversation, or a place in one. turn: the turn found, "" for the whole. Texts not yet sanitised."""

    id: str
    title: str
    about: str
    turn: str = ""
    snippet: str = ""


class Desk:
    """backend_for: makes the backend of a model by its name, None for the one that is chosen by default."""

    def __init__(
        self, config: Config, paths: Paths, backend_for: Callable[[str | None], Backend] | None = None
    ) -> None:
        self.config, self._paths = config, paths
        self._backend_for = backend_for or self._local_backend
        self.params = self._usual = config.sampling
        self._scope: CodeScope | None = None
        self._ready: ModelReady | None = None
        self.system = config.system
        self.model_name = config.model or ""
        self._backend: Backend | None = None
        self._store: Store | None = None
        self._deleted: list[str] = []
        self._lock = Lock()
        self.shelf = Shelf(paths)
        self._states = StateFolder(paths.states)
        self._remembered = self._read()

    # Talking

    def backend(self) -> Backend:
        """The backend of the chosen model, from any thread. Raises ModelNotInstalled."""
        with self._lock:
            if self._backend is None:
                self._backend = self._backend_for(self.model_name or None)
            return self._backend

    def _local_backend(self, model: str | None) -> Backend:
        from phichat.wiring import chat_backend, suited

        config = replace(self.config, model=model)
        backend = chat_backend(config, self._paths)
        config, self._scope = suited(config, self._paths)
        if self.params == self._usual:
            self.params = self._usual = config.sampling
        return backend

    def loaded(self, ready: ModelReady) -> None:
        """A model was loaded outside a turn."""
        self._ready = ready

    def new_talk(self) -> Conversation:
        """A new conversation."""
        return self._talk(None)

    def wanted(self, cid: str | None, *, continues: bool) -> Conversation:
        """What the command line asks for: a conversation by its id, the newest one, or a new one.

        Raises ConversationNotFound and TranscriptError.
        """
        if cid is None and not continues:
            return self.new_talk()
        from phichat.wiring import past

        before = past(self._paths, cid)
        if before is None:
            return self.new_talk()
        self.config = before.carried(self.config, self._paths, model=self.config.model, system=self.config.system)
        self.model_name = self.config.model or ""
        return self._talk(before.conversation)

    def opened(self, id: str) -> Conversation:
        """A conversation that was kept, by the beginning of its id.

        Raises ConversationNotFound and TranscriptError.
        """
        store = self.store()
        return self._talk(store.conversation(store.find(id)))

    def fork(self, talk: Conversation, turn: str) -> Conversation:
        """A copy of the conversation up to a turn. Raises TranscriptError kinds."""
        if talk.id is None:
            raise UsageError("This conversation is not kept, so it cannot be copied", "start phichat without -n")
        talk.stand_at(turn)
        return self.opened(self.store().fork(talk.id, len(talk.branch)))

    def _talk(self, record: ConversationRecord | None) -> Conversation:
        system = self.system
        if record is not None and (branch := record.branch()) and self.config.system is None:
            system = branch[-1].system
        talk = Conversation(self.backend, system, record, self._kept(record), lambda: self._scope)
        if self._ready is not None:
            talk.loaded(self._ready)
        return talk

    def _kept(self, record: ConversationRecord | None) -> Kept | None:
        if not self.config.log:
            return None
        from phichat.transcript.recorder import Recorder

        recorder = Recorder(self.store, record.id, record.head) if record else Recorder(self.store)
        return Kept(recorder, self.store, self._states.forget)

    # What was kept

    def store(self) -> Store:
        """The transcripts, from any thread. Raises TranscriptError."""
        with self._lock:
            if self._store is None:
                from phichat.wiring import store

                self._store = store(self._paths)
            return self._store

    def listed(self, query: str) -> Sequence[Listed]:
        """The conversations, newest first, or the places where words are found. Raises TranscriptError."""
        store = self.store()
        if not query.strip():
            return [
                Listed(one.id, one.title, f"{_when(one.updated_at)} · {_turns(one.turns)} · {one.model}")
                for one in store.conversations(_LISTED)
            ]
        from phichat.transcript.search import Filters

        return [
            Listed(
                hit.conversation,
                hit.title,
                f"{_when(hit.created_at)} · turn {hit.number}",
                hit.turn,
                "".join(f"{FOUND}{text}{END}" if is_found else text for text, is_found in hit.snippet),
            )
            for hit in store.search(query, Filters(), _LISTED, as_typed=True).hits
        ]

    def rename(self, id: str, title: str) -> None:
        """Give a conversation another title. Raises TranscriptError kinds."""
        self.store().rename(id, title)

    def delete(self, id: str) -> None:
        """Take a conversation out of the list; it is gone for good when phichat ends. Raises TranscriptError kinds."""
        self.store().hide(id)
        self._states.forget(id)
        self._deleted.append(id)

    def restore(self) -> str:
        """Bring back what was deleted last, and say so. Raises TranscriptError kinds."""
        if not self._deleted:
            return "Nothing was deleted."
        self.store().unhide(self._deleted.pop())
        return "It is back."

    def export(self, id: str, format: str) -> str:
        """A conversation as a document, in one of EXPORTS. Raises UsageError and TranscriptError kinds."""
        from phichat.transcript.export import Format, write

        if format not in EXPORTS:
            raise UsageError(f"There is no format {format!r}", "the formats are " + ", ".join(EXPORTS))
        return "".join(write([self.store().conversation(id)], Format(format)))

    def replay(self, talk: Conversation, cancel: Cancel) -> str:
        """Whether the last reply comes out the same again. Raises PhichatError kinds."""
        from phichat.chat.replay import can_be_replayed, replay, sentence
        from phichat.wiring import recorded_backend

        branch = talk.branch
        if not branch or not can_be_replayed(branch[-1]):
            raise UsageError("There is no complete answer to make again", "ask something first")
        found = replay(
            branch,
            len(branch),
            lambda turn: recorded_backend(turn, None, self.config, self._paths),
            lambda params: params,
            lambda event: None,
            cancel,
        )
        return "\n".join(map(sentence, found)) or "Stopped."

    def last_code(self, talk: Conversation) -> str:
        """The last answer's last code block, or else the answer. Raises UsageError."""
        from phichat.codecheck.blocks import first_code_block

        branch = talk.branch
        if not branch:
            raise UsageError("There is no answer yet", "ask something first")
        return first_code_block(branch[-1].text) or branch[-1].text

    # Models

    def choose_model(self, name: str) -> None:
        """Another model, from the next turn of any conversation on. Raises ModelNotInstalled."""
        backend = self._backend_for(name)
        with self._lock:
            old, self._backend = self._backend, backend
        self._ready = None
        if old is not None:
            old.unload()
        self.model_name = name

    def unload(self) -> None:
        """Free the model's memory; the next turn loads it again."""
        with self._lock:
            backend = self._backend
        self._ready = None
        if backend is not None:
            backend.unload()

    def count(self, text: str, cancel: Cancel) -> int:
        """Tokens of a text in a prompt, 0 while no model is loaded. Raises EngineError kinds.

        Not while an answer is being made: a backend does one thing at a time.
        """
        with self._lock:
            backend = self._backend
        if backend is None or self._ready is None:
            return 0
        # What the template puts around any message is no part of the text.
        around, whole = (backend.count([Message(Role.USER, part)], cancel) for part in (_LITTLE, f"{_LITTLE}\n{text}"))
        return max(0, whole - around)

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
            if self._store is not None:
                if self._deleted:
                    self._store.remove_hidden()
                self._store.close()
                self._store = None

    # Remembering

    @property
    def crash_reports(self) -> Path:
        """Where a crash of the interface is written down."""
        return self._paths.data

    @property
    def theme(self) -> str:
        """The theme that was chosen last."""
        return str(self._remembered.get("theme", "textual-dark"))

    def choose_theme(self, name: str) -> None:
        """Remember a theme."""
        self._remember(theme=name)

    def draft(self) -> tuple[str, Mapping[str, str]]:
        """What stood in the prompt when phichat was left, and its pastes."""
        pastes = self._remembered.get("pastes")
        return str(self._remembered.get("draft", "")), pastes if isinstance(pastes, dict) else {}

    def keep_draft(self, text: str, pastes: Mapping[str, str]) -> None:
        """Remember what stands in the prompt."""
        self._remember(draft=text, pastes=dict(pastes))

    @property
    def _file(self) -> Path:
        return self._paths.data / "chat.json"

    def _read(self) -> dict[str, object]:
        try:
            found = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _remember(self, **values: object) -> None:
        merged = self._read() | values
        if merged != self._remembered:
            self._remembered = merged
            write_atomically(self._file, json.dumps(merged).encode())


def _when(moment: datetime) -> str:
    """The time of what was today, else the day."""
    here = moment.astimezone()
    return f"{here:%H:%M}" if here.date() == datetime.now().astimezone().date() else f"{here:%Y-%m-%d}"


def _turns(count: int) -> str:
    return "1 turn" if count == 1 else f"{count:,} turns"
