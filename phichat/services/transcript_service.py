"""The stored conversations: resume, record, list, export, delete, replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from phichat.cancel import CancelToken
from phichat.chat.context_window import Turn
from phichat.engine.backend import Backend
from phichat.errors import UsageError
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.types import ModelInfo, SamplingParams
from phichat.units import format_count

if TYPE_CHECKING:
    from phichat.chat.replay import ReplayResult
    from phichat.events import Event
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.records import ConversationRecord, TurnRecord
    from phichat.transcript.store import TranscriptStore

RECORDER_LOCK_TIMEOUT_S = 2.0
"""How long a reply waits for another process that writes transcripts, before it goes unrecorded."""

_LIST_LIMIT = 100

EXPORT_FORMATS = ("md", "html", "json", "jsonl", "txt")
"""The formats of `export`."""

HIGHLIGHT_START, HIGHLIGHT_END = "\x02", "\x03"
"""The characters around the matching words of a snippet."""


@dataclass(frozen=True, slots=True)
class ConversationEntry:
    """A conversation in a list, or a search hit in one.

    turn_id: the matching turn, "" for a whole conversation. The texts are untrusted and not sanitised.
    """

    id: str
    title: str
    details: str
    turn_id: str = ""
    snippet: str = ""


@dataclass(frozen=True, slots=True)
class ResumedConversation:
    """A stored conversation to continue. model: the one that answered last; model_path: its file, "" if unknown."""

    conversation: ConversationRecord
    model: ModelInfo | None
    model_path: str

    def apply_to(self, context: AppContext, *, model: str | None, system: str | None) -> AppContext:
        """Return a context with the conversation's model and system prompt.

        model, system: what the user asked for instead. Raises ModelNotInstalled.
        """
        branch = self.conversation.get_branch()
        if system is None and branch:
            context = context.with_config(system=branch[-1].system)
        if model is None and self.model is not None:
            candidates = (self.model_path, context.config.model)
            name = BackendFactory(context).find_recorded_model(self.model.name, candidates)
            context = context.with_config(model=name)
        return context

    def to_history(self) -> list[Turn]:
        """Return the turns of the current branch that have an answer."""
        return [Turn(turn.parts, turn.text) for turn in self.conversation.get_branch() if turn.text]


class TranscriptService:
    """The transcripts of this user.

    The store opens at first use, from any thread, and closes with `close` or at the end of a `with` block.
    Methods raise TranscriptError kinds.
    """

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._store: TranscriptStore | None = None
        self._deleted_ids: list[str] = []
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def get_store(self) -> TranscriptStore:
        """Return the open store."""
        from phichat.transcript.store import TranscriptStore

        with self._lock:
            if self._store is None:
                self._store = TranscriptStore.open_file(self._context.paths.logs)
            return self._store

    def close(self) -> None:
        """Close the store and erase the conversations that `soft_delete` removed."""
        with self._lock:
            store, self._store = self._store, None
        if store is not None:
            if self._deleted_ids:
                store.purge_soft_deleted()
            store.close()

    def get_conversation(self, prefix: str) -> ConversationRecord:
        """Return the conversation whose id begins so."""
        return self.get_store().get_conversation(self.get_store().find_id(prefix))

    def load_resumed(self, prefix: str | None) -> ResumedConversation | None:
        """Return the conversation whose id begins so; for None the most recent one, None when there is none."""
        store = self.get_store()
        id_ = store.latest_id() if prefix is None else store.find_id(prefix)
        if id_ is None:
            return None
        conversation = store.get_conversation(id_)
        model = next((turn.model for turn in reversed(conversation.get_branch()) if turn.model), None)
        return ResumedConversation(conversation, model, store.get_model_path(model) if model else "")

    def create_recorder(self, resumed: ResumedConversation | None = None) -> Recorder | None:
        """Return the recorder of this run's turns with a store of its own, None when recording is off."""
        if not self._context.config.log:
            return None
        from phichat.transcript.recorder import Recorder

        position = (resumed.conversation.id, resumed.conversation.head) if resumed else ()
        return Recorder(self.open_recorder_store, *position)

    def open_recorder_store(self) -> TranscriptStore:
        """Open another store, for a recorder, which gives up soon when another process has it locked."""
        from phichat.transcript.store import TranscriptStore

        return TranscriptStore.open_file(self._context.paths.logs, busy_timeout_s=RECORDER_LOCK_TIMEOUT_S)

    def list_entries(self, query: str) -> Sequence[ConversationEntry]:
        """Return the most recent conversations, or for words in `query` the turns that contain them."""
        entries, store = [], self.get_store()
        if not query.strip():
            for one in store.list_conversations(_LIST_LIMIT):
                details = f"{_format_date(one.updated_at)} · {format_count(one.turns, 'turn')} · {one.model}"
                entries.append(ConversationEntry(one.id, one.title, details))
            return entries
        from phichat.transcript.search import SearchFilters

        for hit in store.search_turns(query, SearchFilters(), _LIST_LIMIT, prefix_last_word=True).hits:
            details = f"{_format_date(hit.created_at)} · turn {hit.turn_number}"
            marked = (f"{HIGHLIGHT_START}{text}{HIGHLIGHT_END}" if is_match else text for text, is_match in hit.snippet)
            entries.append(ConversationEntry(hit.conversation, hit.title, details, hit.turn, "".join(marked)))
        return entries

    def rename(self, id: str, title: str) -> None:
        """Give a conversation another title."""
        self.get_store().rename_conversation(id, title)

    def soft_delete(self, id: str) -> None:
        """Hide a conversation; `close` erases it. Its KV states are deleted at once."""
        self.get_store().soft_delete(id)
        self.delete_kv_states(id)
        self._deleted_ids.append(id)

    def undo_delete(self) -> str:
        """Restore the conversation deleted last, and return a message for the user."""
        if not self._deleted_ids:
            return "Nothing to undo."
        self.get_store().restore(self._deleted_ids.pop())
        return "Restored the conversation."

    def delete(self, ids: Sequence[str]) -> bool:
        """Erase conversations and their KV states; return False while another process can still read the text."""
        is_erased = self.get_store().delete_conversations(ids)
        for id_ in ids:
            self.delete_kv_states(id_)
        return is_erased

    def delete_kv_states(self, id: str) -> None:
        """Delete the KV states of a conversation."""
        from phichat.engine.kv_store import KvStore

        KvStore(self._context.paths.kv_store).delete_conversation(id)

    def export(self, id: str, format: str) -> str:
        """Return a conversation as a document in one of EXPORT_FORMATS. Raises UsageError for another format."""
        from phichat.transcript.export import ExportFormat, write_export

        if format not in EXPORT_FORMATS:
            raise UsageError(f"Unknown format {format!r}", "Choose " + ", ".join(EXPORT_FORMATS))
        return "".join(write_export([self.get_store().get_conversation(id)], ExportFormat(format)))

    def replay(
        self,
        branch: Sequence[TurnRecord],
        turn_number: int | None,
        cancel: CancelToken,
        *,
        overrides: Mapping[str, Any] | None = None,
        on_event: Callable[[Event], None] = lambda event: None,
    ) -> Iterator[ReplayResult]:
        """Run the turns of a branch again, or only the one with this number (from 1).

        overrides: typed options that replace the recorded ones. Raises PhichatError kinds.
        """
        from phichat.chat.replay import replay_turns

        options = overrides or {}
        sampling = {name: value for name, value in options.items() if name in SamplingParams.__dataclass_fields__}
        model_paths = {turn.model: self.get_store().get_model_path(turn.model) for turn in branch if turn.model}

        def create_backend(turn: TurnRecord) -> Backend:
            path = model_paths.get(turn.model) if turn.model else None
            return BackendFactory(self._context).create_replay_backend(turn, path, options)

        return replay_turns(
            branch, turn_number, create_backend, lambda params: replace(params, **sampling), on_event, cancel
        )


def _format_date(moment: datetime) -> str:
    """Return the local time for today, the date for another day."""
    local = moment.astimezone()
    return f"{local:%H:%M}" if local.date() == datetime.now().astimezone().date() else f"{local:%Y-%m-%d}"
