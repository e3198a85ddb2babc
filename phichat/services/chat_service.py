"""The services of a chat front end."""

from collections.abc import Callable
from threading import Lock

from phichat.chat.conversation import Conversation, ConversationPersistence
from phichat.code_report import TrainingScope
from phichat.engine.backend import Backend, CancelToken
from phichat.errors import UsageError
from phichat.events import ModelReady
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.services.model_catalog import ModelCatalog
from phichat.services.transcript_service import TranscriptService
from phichat.services.ui_state import UiState
from phichat.transcript.records import ConversationRecord
from phichat.types import Message, Role


class ChatService:
    """The selected model and its backend, the conversations, the catalogue and the state of the interface.

    create_backend: makes the backend of a model by its name, None for the default model.
    """

    def __init__(self, context: AppContext, create_backend: Callable[[str | None], Backend] | None = None) -> None:
        self._context = context
        self._create_backend = create_backend or self._create_default_backend
        self.params = self._default_params = context.config.sampling
        self.system = self._given_system = context.config.system
        self.model_name = context.config.model or ""
        self.catalog = ModelCatalog(context)
        self.transcripts = TranscriptService(context)
        self.ui_state = UiState(context.paths)
        self.crash_report_folder = context.paths.data
        self._training_scope: TrainingScope | None = None
        self._loaded_model: ModelReady | None = None
        self._backend: Backend | None = None
        self._lock = Lock()

    def get_backend(self) -> Backend:
        """Return the backend of the selected model, from any thread. Raises ModelNotInstalled."""
        with self._lock:
            if self._backend is None:
                self._backend = self._create_backend(self.model_name or None)
            return self._backend

    def _create_default_backend(self, model: str | None) -> Backend:
        factory = BackendFactory(self._context.with_config(model=model))
        backend = factory.create_chat_backend()
        config, self._training_scope = factory.apply_model_defaults()
        if self.params == self._default_params:
            self.params = self._default_params = config.sampling
        return backend

    def on_model_loaded(self, loaded_model: ModelReady) -> None:
        """Note that a model was loaded outside a turn."""
        self._loaded_model = loaded_model

    def new_conversation(self, record: ConversationRecord | None = None) -> Conversation:
        """Return an empty conversation, or the one of a record."""
        system, persistence = self.system, None
        if record is not None and (branch := record.get_branch()) and self._given_system is None:
            system = branch[-1].system
        if self._context.config.log:
            from phichat.transcript.recorder import Recorder

            get_store = self.transcripts.get_store
            recorder = Recorder(get_store, record.id, record.head) if record else Recorder(get_store)
            persistence = ConversationPersistence(recorder, get_store, self.transcripts.delete_kv_states)
        conversation = Conversation(self.get_backend, system, record, persistence, lambda: self._training_scope)
        if self._loaded_model is not None:
            conversation.on_model_loaded(self._loaded_model)
        return conversation

    def initial_conversation(self, cid: str | None, *, resume_latest: bool) -> Conversation:
        """Return the conversation that the command line asks for: by the beginning of its id, the latest, or a new one.

        Raises ConversationNotFound and TranscriptError.
        """
        resumed = self.transcripts.load_resumed(cid) if resume_latest or cid is not None else None
        if resumed is None:
            return self.new_conversation()
        config = self._context.config
        self._context = resumed.apply_to(self._context, model=config.model, system=config.system)
        self.model_name = self._context.config.model or ""
        return self.new_conversation(resumed.conversation)

    def open_conversation(self, id: str) -> Conversation:
        """Return a stored conversation, by the beginning of its id. Raises TranscriptError kinds."""
        return self.new_conversation(self.transcripts.get_conversation(id))

    def fork_conversation(self, conversation: Conversation, turn_id: str) -> Conversation:
        """Return a copy of the conversation up to a turn of its branch. Raises UsageError and TranscriptError kinds."""
        if conversation.id is None:
            raise UsageError("This conversation isn't saved, so it can't be forked", "Start phichat without -n")
        turn_count = [turn.id for turn in conversation.branch].index(turn_id) + 1
        return self.open_conversation(self.transcripts.get_store().fork_conversation(conversation.id, turn_count))

    def replay_last_turn(self, conversation: Conversation, cancel: CancelToken) -> str:
        """Replay the last turn and return the comparison in words. Raises PhichatError kinds."""
        from phichat.chat.replay import format_result, is_replayable

        branch = conversation.branch
        if not branch or not is_replayable(branch[-1]):
            raise UsageError("There is no complete answer to replay yet", "Ask something first")
        results = self.transcripts.replay(branch, len(branch), cancel)
        return "\n".join(map(format_result, results)) or "Stopped."

    def select_model(self, name: str) -> None:
        """Switch to another model from the next turn of any conversation. Raises ModelNotInstalled."""
        backend = self._create_backend(name)
        with self._lock:
            previous, self._backend = self._backend, backend
        self._loaded_model = None
        if previous is not None:
            previous.unload()
        self.model_name = name

    def unload_model(self) -> None:
        """Free the model's memory; the next turn loads it again."""
        with self._lock:
            backend = self._backend
        self._loaded_model = None
        if backend is not None:
            backend.unload()

    def count_tokens(self, text: str, cancel: CancelToken) -> int:
        """Return the tokens of a text in a prompt, 0 while no model is loaded. Raises EngineError kinds.

        Not to be called while the model answers: a backend does one thing at a time.
        """
        with self._lock:
            backend = self._backend
        if backend is None or self._loaded_model is None:
            return 0
        # The tokens that the template puts around any message are not part of the text.
        template_tokens, total_tokens = (
            backend.count_tokens([Message(Role.USER, content)], cancel) for content in ("x", f"x\n{text}")
        )
        return max(0, total_tokens - template_tokens)

    def close(self) -> None:
        """Free the model and close the transcripts."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
        self.transcripts.close()
