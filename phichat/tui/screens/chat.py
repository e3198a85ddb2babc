"""The chat: a `match` over the events of the turn, and the keys that act on it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic, thread_time
from typing import ClassVar, assert_never

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message

from phichat.cancel import CancelToken
from phichat.chat.conversation import Conversation
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
    VoteResult,
)
from phichat.services.chat_service import ChatService
from phichat.tui.controllers.prompt import PromptingScreen
from phichat.tui.event_pump import EventPump
from phichat.tui.turn_view import TurnView, build_turn_views
from phichat.tui.widgets.completions import CompletionList
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import PromptInput
from phichat.tui.widgets.sidebar import Sidebar
from phichat.tui.widgets.status import Status, StatusLine
from phichat.tui.widgets.welcome import Welcome

_MIN_DRAW_INTERVAL_S = 1 / 15
"""Between two drawings of a growing answer. The engine computes on every core, so each drawing costs it."""
_DRAW_CPU_DIVISOR = 20
"""And at least so many times the processor time that this thread has used since the drawing before: 5 % of a core."""
_MAX_DRAW_INTERVAL_S = 0.3
"""But never longer: a first drawing that had to import things says nothing about the next."""
_TYPING_PAUSE_S = 0.1
"""After a key nothing is drawn for so long, if the answer was drawn less than _LONGEST_S ago: keys come first."""
_DOUBLE_PRESS_S = 1.5
_GC_THRESHOLDS = (2_000, 10, 50)
"""Thresholds of the collector. A drawing makes thousands of objects; to look through all takes as long as several."""


class ChatScreen(PromptingScreen):
    """The conversation, the prompt, and the line of status."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop_generation", "Stop the answer; go back to the prompt"),
        Binding("f1", "show_help", "Keys and commands"),
        Binding("f2,ctrl+b", "toggle_sidebar", "Conversations, and search"),
        Binding("ctrl+o", "pick_model", "Models"),
        Binding("ctrl+n", "new_conversation", "Another conversation"),
        Binding("ctrl+t", "focus_turns", "Go to the turns, and select one"),
        Binding("ctrl+r", "regenerate", "Answer again"),
        Binding("ctrl+up", "jump_to_warning(-1)", "The code warning before"),
        Binding("ctrl+down", "jump_to_warning(1)", "The next code warning"),
        Binding("ctrl+g", "open_editor", "Write the prompt in $EDITOR"),
        Binding("ctrl+x", "stop_download", "Stop the download"),
        Binding("ctrl+l", "redraw", "Draw the screen again"),
    ]

    class EventsAvailable(Message):
        """The turn's thread has something."""

    def __init__(self, chat_service: ChatService, conversation: Conversation | None = None) -> None:
        super().__init__(chat_service, conversation)
        self._turn_pump: EventPump | None = None
        self._preload_pump: EventPump | None = None
        self._running_turn: TurnView | None = None
        self._turn_cancel: CancelToken | None = None
        self._preload_cancel: CancelToken | None = None
        self._drawn_at = self._typed_at = 0.0
        self._thread_time = 0.0
        self._draw_interval = _MIN_DRAW_INTERVAL_S
        self._draw_scheduled = False
        self._interrupted_at = 0.0

    def compose(self) -> ComposeResult:
        with Horizontal(id="main"):
            yield Sidebar(id="sidebar")
            with Vertical(id="talk"):
                yield Welcome(id="welcome")
                yield ConversationView(id="conversation")
                yield CompletionList(id="completions")
                yield PromptInput(id="prompt")
        yield StatusLine(id="status")

    def on_mount(self) -> None:
        self.conversation_view.display = False
        if self.conversation.branch:
            self.open_conversation(self.conversation)
        self.prompt_input.focus()
        text, pastes = self.chat_service.load_draft()
        self.prompt_input.set_text(text, pastes)
        self.status_line.status = Status(model=self.chat_service.model_name)

    def finish_startup(self) -> None:
        """What need not be there when the screen is first drawn."""
        # What has lived until now stays: the collector, which stops all threads, need not go through it again.
        # Once only, for what is frozen is never found to be garbage.
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        gc.enable()
        self.preload_model()
        self.refresh_models()

    @property
    def is_busy(self) -> bool:
        return self._turn_pump is not None

    @property
    def status_line(self) -> StatusLine:
        return self.query_one(StatusLine)

    # Sending

    def send_prompt(self, prompt: str) -> None:
        """Ask after the turn where the conversation stands."""
        conversation, cancel = self.conversation, CancelToken()
        self._running_turn, self._turn_cancel = TurnView(prompt), cancel
        self._show_conversation()
        self.conversation_view.add_turn(self._running_turn)
        params = self.chat_service.params
        preload_pump, count_thread = self._preload_pump, self.stop_token_count()

        def iter_events() -> Iterator[Event]:
            if preload_pump is not None:
                preload_pump.wait()
            if count_thread is not None:
                count_thread.join()
            yield from conversation.send(prompt, params, cancel)

        self._turn_pump = EventPump(iter_events, self._post_events_available)
        self._set_status("starting")
        self._thread_time = thread_time()
        self._turn_pump.start()

    def _post_events_available(self) -> None:
        self.post_message(self.EventsAvailable())

    def preload_model(self) -> None:
        """Bring the model into memory while the user types."""
        cancel = self._preload_cancel = CancelToken()

        def iter_events() -> Iterator[Event]:
            yield from self.chat_service.get_backend().load(cancel)

        self._preload_pump = EventPump(iter_events, self._post_events_available)
        self._preload_pump.start()

    def _handle_preload_events(self) -> None:
        if self._preload_pump is None:
            return
        events, done, error = self._preload_pump.drain_events()
        for event in events:
            self._update_status(event)
        if done:
            self._preload_pump = self._preload_cancel = None
            if self._turn_pump is None:
                self._set_status("")
        if error is not None and self._turn_pump is None:
            self.notify_user(f"{error}", is_error=True)

    def _show_conversation(self, *, is_empty: bool = False) -> None:
        self.query_one(Welcome).display = is_empty
        self.conversation_view.display = not is_empty

    def on_chat_screen_events_available(self) -> None:
        """Draw now, or as soon as the last drawing is long enough ago."""
        self._handle_preload_events()
        if self._turn_pump is not None and self._turn_pump.is_done:
            self._draw_events()
            return
        if self._draw_scheduled:
            return
        self._draw_when_due()

    def _draw_when_due(self) -> None:
        self._draw_scheduled = False
        typing_end = min(self._typed_at + _TYPING_PAUSE_S, self._drawn_at + _MAX_DRAW_INTERVAL_S)
        delay = max(self._drawn_at + self._draw_interval, typing_end) - monotonic()
        if delay <= 0:
            self._draw_events()
        else:
            self._draw_scheduled = True
            self.set_timer(delay, self._draw_when_due)

    def on_text_area_changed(self) -> None:
        self._typed_at = monotonic()
        super().on_text_area_changed()

    def _draw_events(self) -> None:
        pump, turn = self._turn_pump, self._running_turn
        if pump is None or turn is None:
            return
        events, done, error = pump.drain_events()
        for event in events:
            turn.apply_event(event)
            self._update_status(event)
        if error is not None:
            turn.set_error(f"{error}")
        if done:
            self._finish_turn(turn)
        self.conversation_view.update_turn(turn)
        started, self._thread_time = self._thread_time, thread_time()
        self._drawn_at = monotonic()
        self._draw_interval = min(
            _MAX_DRAW_INTERVAL_S, max(_MIN_DRAW_INTERVAL_S, _DRAW_CPU_DIVISOR * (self._thread_time - started))
        )

    def _update_status(self, event: Event) -> None:
        match event:
            case TurnStarted():
                self._set_status("starting")
            case ModelVerifying():
                self._set_status(f"checking {event.fraction:.0%}")
            case ModelLoading():
                self._set_status(f"loading {event.fraction:.0%}")
            case ModelReady():
                self.chat_service.on_model_loaded(event)
                self.conversation.on_model_loaded(event)
                self._set_status(
                    "reading", model=event.model.name, placement=_format_placement(event), n_ctx=event.model.n_ctx
                )
            case PromptProgress():
                is_prefilling = event.done < event.total
                state = f"reading {event.done:,} of {event.total:,} tokens" if is_prefilling else "thinking"
                self._set_status(state, used_tokens=event.total)
            case ReasoningDelta():
                self._set_status("thinking")
            case TextDelta():
                self._set_status("writing")
            case TurnFinished():
                usage = event.usage
                self._set_status(
                    "",
                    used_tokens=usage.prompt_tokens + usage.completion_tokens,
                    n_ctx=event.n_ctx or self.status_line.status.n_ctx,
                    tokens_per_second=event.timings.tokens_per_second,
                )
            case (
                ContextTrimmed()
                | CodeChecked()
                | TranscriptUnavailable()
                | SamplingProgress()
                | SampleFinished()
                | VoteResult()
            ):
                pass
            case _:
                assert_never(event)

    def _set_status(self, activity: str, **changes: object) -> None:
        self.status_line.status = replace(self.status_line.status, activity=activity, **changes)  # type: ignore[arg-type]

    def set_background_status(self, status: str) -> None:
        self.status_line.status = replace(self.status_line.status, background=status)

    @property
    def current_model(self) -> str:
        return self.status_line.status.model

    def on_model_switched(self, name: str) -> None:
        self._set_status("", model=name, placement="", tokens_per_second=0.0)
        self.preload_model()

    def on_model_unloaded(self) -> None:
        self._set_status("", placement="not loaded", tokens_per_second=0.0)

    def stop_preload(self) -> None:
        if self._preload_cancel is not None:
            self._preload_cancel.set()
        if self._preload_pump is not None:
            self._preload_pump.wait()
        # What it has still to tell is no longer so.
        self._preload_pump = self._preload_cancel = None

    def _finish_turn(self, turn: TurnView) -> None:
        self._turn_pump = self._turn_cancel = self._running_turn = None
        self._set_status("")
        if self.conversation.head is not None:
            turn.id = self.conversation.head
            model = self.conversation.get_turn(turn.id).model
            turn.model = model.name if model else ""
            sibling_ids = self.conversation.sibling_ids(turn.id)
            turn.sibling_number, turn.sibling_count = sibling_ids.index(turn.id) + 1, len(sibling_ids)
            turn.version += 1

    # Stopping

    def action_stop_generation(self) -> None:
        """End the answer; without one, go back to the prompt."""
        if self._cancel_running():
            self._set_status("stopping")
        elif self.sidebar.is_open:
            self.action_toggle_sidebar()
        else:
            self.conversation_view.select_turn(None)
            self.prompt_input.focus()

    def _cancel_running(self) -> bool:
        """Whether there was anything to stop."""
        cancels = [cancel for cancel in (self._turn_cancel, self._preload_cancel) if cancel is not None]
        for cancel in cancels:
            cancel.set()
        return bool(cancels)

    def handle_interrupt(self) -> None:
        """Ctrl-C: copy what is selected, or stop; twice in a row quits."""
        selected_text = self.get_selected_text()
        if selected_text:
            self.app.copy_to_clipboard(selected_text)
            self.clear_selection()
            return
        now = monotonic()
        if now - self._interrupted_at < _DOUBLE_PRESS_S:
            self.save_and_shut_down()
            self.app.exit()
            return
        self._interrupted_at = now
        if self._cancel_running():
            self._set_status("stopping")
        else:
            self.notify_user("Ctrl-C once more quits.")

    def save_and_shut_down(self) -> None:
        """Stop what is running and keep the draft."""
        self.chat_service.save_draft(self.prompt_input.text, self.prompt_input.pastes)
        self.shut_down()

    def shut_down(self) -> None:
        """Stop what is running, with what was said of it kept."""
        self._cancel_running()
        self.stop_token_count()
        for thread in (self._turn_pump, self._preload_pump):
            if thread is not None:
                thread.wait(2.0)
        if self.download is not None:
            self.download.cancel()
        self.chat_service.close()

    # Elsewhere

    def open_conversation(self, conversation: Conversation) -> None:
        """Show another conversation."""
        self.conversation = conversation
        self._show_conversation(is_empty=not conversation.branch)
        self.conversation_view.show_turns(build_turn_views(conversation))
        self.prompt_input.set_history([turn.prompt for turn in conversation.branch])
        self.prompt_input.focus()

    def action_focus_turns(self) -> None:
        """Go to the turns, where keys act on the selected one."""
        self.conversation_view.focus()
        self.conversation_view.action_select_step(0)

    def action_jump_to_warning(self, step: int) -> None:
        """Jump to the next warning of the code check."""
        self.conversation_view.action_next_warning(step)


def _format_placement(event: ModelReady) -> str:
    model = event.model
    if not model.n_gpu_layers:
        return "CPU"
    return f"{min(model.n_gpu_layers, model.n_layers + 1)} of {model.n_layers + 1} layers on the GPU"
