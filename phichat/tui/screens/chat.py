"""The chat: a `match` over the events of the turn, and the keys that act on it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from time import monotonic
from typing import ClassVar, assert_never

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message

from phichat.chat.conversation import Conversation as Talk
from phichat.desk import Desk
from phichat.engine.cancel import Cancel
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelChecking,
    ModelLoading,
    ModelReady,
    NotKept,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    Sampling,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Voted,
)
from phichat.tui.bridge import TurnThread
from phichat.tui.screens.prompting import PromptingScreen
from phichat.tui.turns import ShownTurn, shown
from phichat.tui.widgets.completions import Completions
from phichat.tui.widgets.conversation import Conversation
from phichat.tui.widgets.prompt import Prompt
from phichat.tui.widgets.sidebar import Sidebar
from phichat.tui.widgets.status import Status, StatusLine
from phichat.tui.widgets.welcome import Welcome

_INTERVAL_S = 1 / 15
"""Between two drawings of a growing answer. The engine computes on every core, so each drawing costs it."""
_SHARE = 8
"""And at least so many times what the last drawing took."""
_LONGEST_S = 0.3
"""But never longer: a first drawing that had to import things says nothing about the next."""
_TYPING_S = 0.1
"""After a key nothing is drawn for so long, if the answer was drawn less than _LONGEST_S ago: keys come first."""
_TWICE_S = 1.5
_NEW_OBJECTS = 10_000
"""Before the collector looks for garbage among them: a drawing makes thousands."""


class ChatScreen(PromptingScreen):
    """The conversation, the prompt, and the line of status."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop the answer; go back to the prompt"),
        Binding("f1", "keys", "Keys and commands"),
        Binding("f2,ctrl+b", "sidebar", "Conversations, and search"),
        Binding("ctrl+o", "models", "Models"),
        Binding("ctrl+n", "new", "Another conversation"),
        Binding("ctrl+t", "talk", "Go to the turns, and select one"),
        Binding("ctrl+r", "regenerate", "Answer again"),
        Binding("ctrl+up", "warning(-1)", "The code warning before"),
        Binding("ctrl+down", "warning(1)", "The next code warning"),
        Binding("ctrl+g", "editor", "Write the prompt in $EDITOR"),
        Binding("ctrl+x", "stop_pull", "Stop the download"),
        Binding("ctrl+l", "redraw", "Draw the screen again"),
    ]

    class Woke(Message):
        """The turn's thread has something."""

    def __init__(self, desk: Desk, talk: Talk | None = None) -> None:
        super().__init__(desk, talk)
        self._turn: TurnThread | None = None
        self._preload: TurnThread | None = None
        self._live: ShownTurn | None = None
        self._cancel: Cancel | None = None
        self._load_cancel: Cancel | None = None
        self._drawn_at = self._typed_at = 0.0
        self._interval = _INTERVAL_S
        self._waits = False
        self._interrupted_at = 0.0

    def compose(self) -> ComposeResult:
        with Horizontal(id="main"):
            yield Sidebar(id="sidebar")
            with Vertical(id="talk"):
                yield Welcome(id="welcome")
                yield Conversation(id="conversation")
                yield Completions(id="completions")
                yield Prompt(id="prompt")
        yield StatusLine(id="status")

    def on_mount(self) -> None:
        self.conversation.display = False
        if self.talk.branch:
            self.open(self.talk)
        self.prompt.focus()
        text, pastes = self.desk.draft()
        self.prompt.fill(text, pastes)
        self.status.status = Status(model=self.desk.model_name)

    def begin(self) -> None:
        """What need not be there when the screen is first drawn."""
        # What has lived until now stays: the collector, which stops all threads, need not go through it again.
        # Once only, for what is frozen is never found to be garbage.
        gc.freeze()
        gc.set_threshold(_NEW_OBJECTS)
        gc.enable()
        self.load()
        self.look_for_models()

    @property
    def is_busy(self) -> bool:
        return self._turn is not None

    @property
    def status(self) -> StatusLine:
        return self.query_one(StatusLine)

    # Sending

    def send(self, prompt: str) -> None:
        """Ask after the turn where the conversation stands."""
        talk, cancel = self.talk, Cancel()
        self._live, self._cancel = ShownTurn(prompt), cancel
        self._reveal()
        self.conversation.add(self._live)
        params = self.desk.params
        preload, counting = self._preload, self.stop_counting()

        def events() -> Iterator[Event]:
            if preload is not None:
                preload.join()
            if counting is not None:
                counting.join()
            yield from talk.send(prompt, params, cancel)

        self._turn = TurnThread(events, self._wake)
        self._say("starting")
        self._turn.start()

    def _wake(self) -> None:
        self.post_message(self.Woke())

    def load(self) -> None:
        """Bring the model into memory while the user types."""
        cancel = self._load_cancel = Cancel()

        def events() -> Iterator[Event]:
            yield from self.desk.backend().load(cancel)

        self._preload = TurnThread(events, self._wake)
        self._preload.start()

    def _loading(self) -> None:
        if self._preload is None:
            return
        events, done, error = self._preload.take()
        for event in events:
            self._follow(event)
        if done:
            self._preload = self._load_cancel = None
            if self._turn is None:
                self._say("")
        if error is not None and self._turn is None:
            self.tell(f"{error}", grave=True)

    def _reveal(self, *, is_empty: bool = False) -> None:
        self.query_one(Welcome).display = is_empty
        self.conversation.display = not is_empty

    def on_chat_screen_woke(self) -> None:
        """Draw now, or as soon as the last drawing is long enough ago."""
        self._loading()
        if self._turn is not None and self._turn.is_done:
            self._draw()
            return
        if self._waits:
            return
        self._draw_when_due()

    def _draw_when_due(self) -> None:
        self._waits = False
        quiet = min(self._typed_at + _TYPING_S, self._drawn_at + _LONGEST_S)
        due = max(self._drawn_at + self._interval, quiet) - monotonic()
        if due <= 0:
            self._draw()
        else:
            self._waits = True
            self.set_timer(due, self._draw_when_due)

    def on_text_area_changed(self) -> None:
        self._typed_at = monotonic()
        super().on_text_area_changed()

    def _draw(self) -> None:
        running, live = self._turn, self._live
        if running is None or live is None:
            return
        began = monotonic()
        events, done, error = running.take()
        for event in events:
            live.apply(event)
            self._follow(event)
        if error is not None:
            live.fail(f"{error}")
        if done:
            self._end(live)
        self.conversation.changed(live)
        self._drawn_at = monotonic()
        self._interval = min(_LONGEST_S, max(_INTERVAL_S, _SHARE * (self._drawn_at - began)))

    def _follow(self, event: Event) -> None:
        match event:
            case TurnStarted():
                self._say("starting")
            case ModelChecking():
                self._say(f"checking {event.fraction:.0%}")
            case ModelLoading():
                self._say(f"loading {event.fraction:.0%}")
            case ModelReady():
                self.desk.loaded(event)
                self.talk.loaded(event)
                self._say("reading", model=event.model.name, placement=_placement(event), n_ctx=event.model.n_ctx)
            case PromptProgress():
                reads = event.done < event.total
                state = f"reading {event.done:,} of {event.total:,} tokens" if reads else "thinking"
                self._say(state, used=event.total)
            case ReasoningDelta():
                self._say("thinking")
            case TextDelta():
                self._say("writing")
            case TurnFinished():
                usage = event.usage
                self._say(
                    "",
                    used=usage.prompt_tokens + usage.completion_tokens,
                    n_ctx=event.n_ctx or self.status.status.n_ctx,
                    tokens_per_second=event.timings.tokens_per_second,
                )
            case ContextTrimmed() | CodeChecked() | NotKept() | Sampling() | SampleFinished() | Voted():
                pass
            case _:
                assert_never(event)

    def _say(self, state: str, **changes: object) -> None:
        self.status.status = replace(self.status.status, state=state, **changes)  # type: ignore[arg-type]

    def say_beside(self, word: str) -> None:
        self.status.status = replace(self.status.status, beside=word)

    @property
    def model_in_use(self) -> str:
        return self.status.status.model

    def model_chosen(self, name: str) -> None:
        self._say("", model=name, placement="", tokens_per_second=0.0)
        self.load()

    def model_unloaded(self) -> None:
        self._say("", placement="not loaded", tokens_per_second=0.0)

    def stop_loading(self) -> None:
        if self._load_cancel is not None:
            self._load_cancel.set()
        if self._preload is not None:
            self._preload.join()
        # What it has still to tell is no longer so.
        self._preload = self._load_cancel = None

    def _end(self, live: ShownTurn) -> None:
        self._turn = self._cancel = self._live = None
        self._say("")
        if self.talk.head is not None:
            live.id = self.talk.head
            answered = self.talk.turn(live.id).model
            live.model = answered.name if answered else ""
            same = self.talk.siblings(live.id)
            live.sibling, live.siblings = same.index(live.id) + 1, len(same)
            live.version += 1

    # Stopping

    def action_stop(self) -> None:
        """End the answer; without one, go back to the prompt."""
        if self._stop():
            self._say("stopping")
        elif self.sidebar.is_open:
            self.action_sidebar()
        else:
            self.conversation.select(None)
            self.prompt.focus()

    def _stop(self) -> bool:
        """Whether there was anything to stop."""
        running = [cancel for cancel in (self._cancel, self._load_cancel) if cancel is not None]
        for cancel in running:
            cancel.set()
        return bool(running)

    def interrupt(self) -> None:
        """Ctrl-C: copy what is selected, or stop; twice in a row quits."""
        chosen = self.get_selected_text()
        if chosen:
            self.app.copy_to_clipboard(chosen)
            self.clear_selection()
            return
        now = monotonic()
        if now - self._interrupted_at < _TWICE_S:
            self.leave()
            self.app.exit()
            return
        self._interrupted_at = now
        if self._stop():
            self._say("stopping")
        else:
            self.tell("Ctrl-C once more quits.")

    def leave(self) -> None:
        """Stop what is running and keep the draft."""
        self.desk.keep_draft(self.prompt.text, self.prompt.pastes)
        self.halt()

    def halt(self) -> None:
        """Stop what is running, with what was said of it kept."""
        self._stop()
        self.stop_counting()
        for thread in (self._turn, self._preload):
            if thread is not None:
                thread.join(2.0)
        if self.pulling is not None:
            self.pulling.cancel()
        self.desk.close()

    # Elsewhere

    def open(self, talk: Talk) -> None:
        """Show another conversation."""
        self.talk = talk
        self._reveal(is_empty=not talk.branch)
        self.conversation.show(shown(talk))
        self.prompt.remember([turn.prompt for turn in talk.branch])
        self.prompt.focus()

    def action_talk(self) -> None:
        """Go to the turns, where keys act on the selected one."""
        self.conversation.focus()
        self.conversation.action_select(0)

    def action_warning(self, step: int) -> None:
        """Jump to the next warning of the code check."""
        self.conversation.action_next_warning(step)


def _placement(ready: ModelReady) -> str:
    model = ready.model
    if not model.n_gpu_layers:
        return "CPU"
    return f"{min(model.n_gpu_layers, model.n_layers + 1)} of {model.n_layers + 1} layers on the GPU"
