"""What a chat has at hand: the parts of `wiring`, and the little that it remembers itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from phichat.chat.conversation import Conversation, ConversationPersistence
from phichat.code_report import TrainingScope
from phichat.config.settings import Config
from phichat.engine.backend import Backend, CancelToken
from phichat.engine.kv_store import KvStore
from phichat.errors import UsageError
from phichat.events import ModelReady
from phichat.paths import Paths
from phichat.services.model_catalog import ModelCatalog
from phichat.storage.json_file import JsonFile
from phichat.types import Message, Role

if TYPE_CHECKING:
    from phichat.transcript.records import ConversationRecord
    from phichat.transcript.store import TranscriptStore

_LIST_LIMIT = 100
_PROBE_TEXT = "x"

EXPORT_FORMATS = ("md", "html", "json", "jsonl", "txt")
"""The formats of `export`."""

HIGHLIGHT_START, HIGHLIGHT_END = "\x02", "\x03"
"""What stands around the words found in a snippet."""


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """A conversation, or a place in one. turn: the turn found, "" for the whole. Texts not yet sanitised."""

    id: str
    title: str
    details: str
    turn_id: str = ""
    snippet: str = ""


class ChatService:
    """backend_for: makes the backend of a model by its name, None for the one that is chosen by default."""

    def __init__(
        self, config: Config, paths: Paths, backend_factory: Callable[[str | None], Backend] | None = None
    ) -> None:
        self.config, self._paths = config, paths
        self._backend_factory = backend_factory or self._create_local_backend
        self.params = self._default_params = config.sampling
        self._training_scope: TrainingScope | None = None
        self._loaded_model: ModelReady | None = None
        self.system = config.system
        self.model_name = config.model or ""
        self._backend: Backend | None = None
        self._store: TranscriptStore | None = None
        self._deleted_ids: list[str] = []
        self._lock = Lock()
        self.catalog = ModelCatalog(paths)
        self._kv_store = KvStore(paths.kv_store)
        self._ui_state_file = JsonFile(paths.data / "chat.json")
        self._ui_state = self._ui_state_file.load()

    # Talking

    def get_backend(self) -> Backend:
        """The backend of the chosen model, from any thread. Raises ModelNotInstalled."""
        with self._lock:
            if self._backend is None:
                self._backend = self._backend_factory(self.model_name or None)
            return self._backend

    def _create_local_backend(self, model: str | None) -> Backend:
        from phichat.services.composition import create_chat_backend, with_model_defaults

        config = replace(self.config, model=model)
        backend = create_chat_backend(config, self._paths)
        config, self._training_scope = with_model_defaults(config, self._paths)
        if self.params == self._default_params:
            self.params = self._default_params = config.sampling
        return backend

    def on_model_loaded(self, loaded_model: ModelReady) -> None:
        """A model was loaded outside a turn."""
        self._loaded_model = loaded_model

    def new_conversation(self) -> Conversation:
        """A new conversation."""
        return self._conversation_from(None)

    def initial_conversation(self, cid: str | None, *, resume_latest: bool) -> Conversation:
        """What the command line asks for: a conversation by its id, the newest one, or a new one.

        Raises ConversationNotFound and TranscriptError.
        """
        if cid is None and not resume_latest:
            return self.new_conversation()
        from phichat.services.composition import load_resumed_conversation

        resumed = load_resumed_conversation(self._paths, cid)
        if resumed is None:
            return self.new_conversation()
        self.config = resumed.apply_to(self.config, self._paths, model=self.config.model, system=self.config.system)
        self.model_name = self.config.model or ""
        return self._conversation_from(resumed.conversation)

    def open_conversation(self, id: str) -> Conversation:
        """A conversation that was kept, by the beginning of its id.

        Raises ConversationNotFound and TranscriptError.
        """
        store = self.get_store()
        return self._conversation_from(store.get_conversation(store.find_id(id)))

    def fork_conversation(self, conversation: Conversation, turn_id: str) -> Conversation:
        """A copy of the conversation up to a turn. Raises TranscriptError kinds."""
        if conversation.id is None:
            raise UsageError("This conversation is not kept, so it cannot be copied", "Start phichat without -n")
        conversation.set_head(turn_id)
        return self.open_conversation(self.get_store().fork_conversation(conversation.id, len(conversation.branch)))

    def _conversation_from(self, record: ConversationRecord | None) -> Conversation:
        system = self.system
        if record is not None and (branch := record.get_branch()) and self.config.system is None:
            system = branch[-1].system
        conversation = Conversation(
            self.get_backend, system, record, self._persistence_for(record), lambda: self._training_scope
        )
        if self._loaded_model is not None:
            conversation.on_model_loaded(self._loaded_model)
        return conversation

    def _persistence_for(self, record: ConversationRecord | None) -> ConversationPersistence | None:
        if not self.config.log:
            return None
        from phichat.transcript.recorder import Recorder

        recorder = Recorder(self.get_store, record.id, record.head) if record else Recorder(self.get_store)
        return ConversationPersistence(recorder, self.get_store, self._kv_store.delete_conversation)

    # What was kept

    def get_store(self) -> TranscriptStore:
        """The transcripts, from any thread. Raises TranscriptError."""
        with self._lock:
            if self._store is None:
                from phichat.services.composition import open_store

                self._store = open_store(self._paths)
            return self._store

    def list_conversations(self, query: str) -> Sequence[ConversationEntry]:
        """The conversations, newest first, or the places where words are found. Raises TranscriptError."""
        store = self.get_store()
        if not query.strip():
            return [
                ConversationEntry(
                    one.id, one.title, f"{_format_date(one.updated_at)} · {_format_turn_count(one.turns)} · {one.model}"
                )
                for one in store.list_conversations(_LIST_LIMIT)
            ]
        from phichat.transcript.search import SearchFilters

        return [
            ConversationEntry(
                hit.conversation,
                hit.title,
                f"{_format_date(hit.created_at)} · turn {hit.turn_number}",
                hit.turn,
                "".join(
                    f"{HIGHLIGHT_START}{text}{HIGHLIGHT_END}" if is_found else text for text, is_found in hit.snippet
                ),
            )
            for hit in store.search_turns(query, SearchFilters(), _LIST_LIMIT, prefix_last_word=True).hits
        ]

    def rename_conversation(self, id: str, title: str) -> None:
        """Give a conversation another title. Raises TranscriptError kinds."""
        self.get_store().rename_conversation(id, title)

    def delete_conversation(self, id: str) -> None:
        """Take a conversation out of the list; it is gone for good when phichat ends. Raises TranscriptError kinds."""
        self.get_store().soft_delete(id)
        self._kv_store.delete_conversation(id)
        self._deleted_ids.append(id)

    def undo_delete(self) -> str:
        """Bring back what was deleted last, and say so. Raises TranscriptError kinds."""
        if not self._deleted_ids:
            return "Nothing was deleted."
        self.get_store().restore(self._deleted_ids.pop())
        return "It is back."

    def export_conversation(self, id: str, format: str) -> str:
        """A conversation as a document, in one of EXPORTS. Raises UsageError and TranscriptError kinds."""
        from phichat.transcript.export import ExportFormat, write_export

        if format not in EXPORT_FORMATS:
            raise UsageError(f"There is no format {format!r}", "the formats are " + ", ".join(EXPORT_FORMATS))
        return "".join(write_export([self.get_store().get_conversation(id)], ExportFormat(format)))

    def replay_last_turn(self, conversation: Conversation, cancel: CancelToken) -> str:
        """Whether the last reply comes out the same again. Raises PhichatError kinds."""
        from phichat.chat.replay import format_result, is_replayable, replay_turns
        from phichat.services.composition import create_replay_backend

        branch = conversation.branch
        if not branch or not is_replayable(branch[-1]):
            raise UsageError("There is no complete answer to make again", "Ask something first")
        results = replay_turns(
            branch,
            len(branch),
            lambda turn: create_replay_backend(turn, None, self.config, self._paths),
            lambda params: params,
            lambda event: None,
            cancel,
        )
        return "\n".join(map(format_result, results)) or "Stopped."

    def last_code_block(self, conversation: Conversation) -> str:
        """The last answer's last code block, or else the answer. Raises UsageError."""
        from phichat.codecheck.blocks import find_first_code_block

        branch = conversation.branch
        if not branch:
            raise UsageError("There is no answer yet", "Ask something first")
        return find_first_code_block(branch[-1].text) or branch[-1].text

    # Models

    def select_model(self, name: str) -> None:
        """Another model, from the next turn of any conversation on. Raises ModelNotInstalled."""
        backend = self._backend_factory(name)
        with self._lock:
            old, self._backend = self._backend, backend
        self._loaded_model = None
        if old is not None:
            old.unload()
        self.model_name = name

    def unload_model(self) -> None:
        """Free the model's memory; the next turn loads it again."""
        with self._lock:
            backend = self._backend
        self._loaded_model = None
        if backend is not None:
            backend.unload()

    def count_tokens(self, text: str, cancel: CancelToken) -> int:
        """Tokens of a text in a prompt, 0 while no model is loaded. Raises EngineError kinds.

        Not while an answer is being made: a backend does one thing at a time.
        """
        with self._lock:
            backend = self._backend
        if backend is None or self._loaded_model is None:
            return 0
        # What the template puts around any message is no part of the text.
        template_tokens, total_tokens = (
            backend.count_tokens([Message(Role.USER, part)], cancel) for part in (_PROBE_TEXT, f"{_PROBE_TEXT}\n{text}")
        )
        return max(0, total_tokens - template_tokens)

    def close(self) -> None:
        """Free the model."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
            if self._store is not None:
                if self._deleted_ids:
                    self._store.purge_soft_deleted()
                self._store.close()
                self._store = None

    # Remembering

    @property
    def crash_report_folder(self) -> Path:
        """Where a crash of the interface is written down."""
        return self._paths.data

    @property
    def theme(self) -> str:
        """The theme that was chosen last."""
        return str(self._ui_state.get("theme", "textual-dark"))

    def save_theme(self, name: str) -> None:
        """Remember a theme."""
        self._save_ui_state(theme=name)

    def load_draft(self) -> tuple[str, Mapping[str, str]]:
        """What stood in the prompt when phichat was left, and its pastes."""
        pastes = self._ui_state.get("pastes")
        return str(self._ui_state.get("draft", "")), pastes if isinstance(pastes, dict) else {}

    def save_draft(self, text: str, pastes: Mapping[str, str]) -> None:
        """Remember what stands in the prompt."""
        self._save_ui_state(draft=text, pastes=dict(pastes))

    def _save_ui_state(self, **values: object) -> None:
        merged = self._ui_state_file.load() | values
        if merged != self._ui_state:
            self._ui_state = merged
            self._ui_state_file.save(merged)


def _format_date(moment: datetime) -> str:
    """The time of what was today, else the day."""
    local_time = moment.astimezone()
    return (
        f"{local_time:%H:%M}" if local_time.date() == datetime.now().astimezone().date() else f"{local_time:%Y-%m-%d}"
    )


def _format_turn_count(count: int) -> str:
    return "1 turn" if count == 1 else f"{count:,} turns"
