"""Run turns, load the model while the user types, count tokens, and decide when the growing answer is drawn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Thread
from time import monotonic, thread_time

from phichat import events
from phichat.cancel import CancelToken
from phichat.chat.presenter import TurnPresenter, present
from phichat.errors import PhichatError
from phichat.tui.background import EventPump, Result
from phichat.tui.controllers.context import ChatContext
from phichat.tui.turn_view import TurnView
from phichat.types import Part, render_parts

_MIN_DRAW_INTERVAL_S = 1 / 15
"""Between two drawings of a growing answer. The engine computes on every core, so each drawing slows it down."""
_DRAW_CPU_DIVISOR = 20
"""A drawing may use one part in this many of the processor time of this thread: 5 % of a core."""
_MAX_DRAW_INTERVAL_S = 0.3
"""Upper limit: the first drawing, which has to import modules, does not predict the next."""
_TYPING_PAUSE_S = 0.1
"""Nothing is drawn this long after a key, unless the last drawing is _MAX_DRAW_INTERVAL_S ago: keys come first."""
_SHUTDOWN_TIMEOUT_S = 2.0


class StatusPresenter(TurnPresenter):
    """Show the progress of a turn in the status line."""

    def __init__(self, context: ChatContext) -> None:
        self._context, self._update = context, context.status_line.update_status

    def on_turn_started(self, event: events.TurnStarted) -> None:
        self._update(activity="starting…")

    def on_model_verifying(self, event: events.ModelVerifying) -> None:
        self._update(activity=f"verifying {event.fraction:.0%}")

    def on_model_loading(self, event: events.ModelLoading) -> None:
        self._update(activity=f"loading {event.fraction:.0%}")

    def on_model_ready(self, event: events.ModelReady) -> None:
        self._context.service.on_model_loaded(event)
        self._context.conversation.on_model_loaded(event)
        model, layers = event.model, event.model.n_layers + 1
        placement = f"{min(model.n_gpu_layers, layers)} of {layers} layers on the GPU" if model.n_gpu_layers else "CPU"
        self._update(activity="reading prompt", model=model.name, placement=placement, n_ctx=model.n_ctx)

    def on_prompt_progress(self, event: events.PromptProgress) -> None:
        is_reading = event.done < event.total
        activity = f"reading prompt {event.done:,}/{event.total:,}" if is_reading else "thinking…"
        self._update(activity=activity, used_tokens=event.total)

    def on_reasoning_delta(self, event: events.ReasoningDelta) -> None:
        self._update(activity="thinking…")

    def on_text_delta(self, event: events.TextDelta) -> None:
        self._update(activity="writing…")

    def on_turn_finished(self, event: events.TurnFinished) -> None:
        self._update(
            activity="",
            used_tokens=event.usage.prompt_tokens + event.usage.completion_tokens,
            n_ctx=event.n_ctx or self._context.status_line.n_ctx,
            tokens_per_second=event.timings.tokens_per_second,
        )


class TurnRunner:
    """Own every use of the backend. A backend does one thing at a time: a turn waits for loading and counting."""

    def __init__(self, context: ChatContext) -> None:
        self._context, self._status = context, StatusPresenter(context)
        self._turn: TurnView | None = None
        self._turn_pump: EventPump | None = None
        self._preload_pump: EventPump | None = None
        self._count_cancel = CancelToken()
        self._count_thread: Thread | None = None
        self._drawn_at = self._typed_at = self._thread_time = 0.0
        self._draw_interval = _MIN_DRAW_INTERVAL_S
        self._draw_scheduled = False

    def send(self, parts: Sequence[Part]) -> None:
        """Start a turn after the conversation's head."""
        context = self._context
        conversation, params = context.conversation, context.service.params
        self._turn = TurnView(render_parts(parts), parts=parts)
        context.show_conversation()
        context.view.add_turn(self._turn)
        self.stop_token_count()
        preload_pump, count_thread = self._preload_pump, self._count_thread

        def iter_events(cancel: CancelToken) -> Iterator[events.Event]:
            if preload_pump is not None:
                preload_pump.wait()
            if count_thread is not None:
                count_thread.join()
            yield from conversation.send(tuple(parts), params, cancel)

        context.is_busy = True
        context.status_line.update_status(activity="starting…")
        self._thread_time = thread_time()
        self._turn_pump = EventPump(iter_events, self._on_thread_events)

    def preload(self) -> None:
        """Load the model while the user types."""
        service = self._context.service
        self._preload_pump = EventPump(lambda cancel: service.get_backend().load(cancel), self._on_thread_events)

    def stop_preload(self) -> None:
        """Stop loading, wait for the end of it, and discard its events, which are out of date."""
        if self._preload_pump is not None:
            self._preload_pump.cancel()
            self._preload_pump.wait()
        self._preload_pump = None

    def count_tokens(self, text: str, on_count: Callable[[int], None]) -> None:
        """Count the tokens of a text in a thread; on_count is only called if a loaded model has counted them.

        Nothing is counted during a turn, and the next turn or count cancels this one.
        """
        if self._context.is_busy:
            return
        self.stop_token_count()
        cancel = self._count_cancel = CancelToken()

        def count() -> int:
            # After an error the estimate remains, and the next turn reports the error.
            with suppress(PhichatError):
                return self._context.service.count_tokens(text, cancel)
            return 0

        def on_result(tokens: int) -> None:
            if tokens and not cancel.is_set():
                on_count(tokens)

        self.count_in_thread(count, on_result)

    def count_in_thread(self, work: Callable[[], Result], on_result: Callable[[Result], object]) -> None:
        """Run work that counts tokens in a thread, which the next turn waits for."""
        self._count_thread = self._context.run_in_thread("count", work, on_result)

    def stop_token_count(self) -> None:
        self._count_cancel.set()

    def stop(self) -> bool:
        """Cancel the turn and the loading; return False if nothing was running."""
        for pump in self._pumps:
            pump.cancel()
            self._context.status_line.update_status(activity="stopping…")
        return bool(self._pumps)

    @property
    def _pumps(self) -> list[EventPump]:
        return [pump for pump in (self._turn_pump, self._preload_pump) if pump is not None]

    def shut_down(self) -> None:
        """Cancel everything, and wait so that the part of the answer generated so far is recorded."""
        for pump in self._pumps:
            pump.cancel()
        self.stop_token_count()
        for pump in self._pumps:
            pump.wait(_SHUTDOWN_TIMEOUT_S)

    # Drawing

    def on_typing(self) -> None:
        """Postpone the next drawing: the user is typing."""
        self._typed_at = monotonic()

    def _on_thread_events(self) -> None:
        self._context.screen.call_later(self._handle_events)

    def _handle_events(self) -> None:
        """Draw now if the turn is over, else as soon as the drawing is due."""
        self._handle_preload_events()
        if self._turn_pump is not None and self._turn_pump.is_done:
            self._draw_events()
        elif not self._draw_scheduled:
            self._draw_when_due()

    def _handle_preload_events(self) -> None:
        if self._preload_pump is None:
            return
        batch, done, error = self._preload_pump.drain_events()
        for event in batch:
            present(event, self._status)
        if done:
            self._preload_pump = None
            if not self._context.is_busy:
                self._context.status_line.update_status(activity="")
        if error is not None and not self._context.is_busy:
            self._context.notify_error(error)

    def _draw_when_due(self) -> None:
        self._draw_scheduled = False
        typing_end = min(self._typed_at + _TYPING_PAUSE_S, self._drawn_at + _MAX_DRAW_INTERVAL_S)
        delay = max(self._drawn_at + self._draw_interval, typing_end) - monotonic()
        if delay <= 0:
            self._draw_events()
        else:
            self._draw_scheduled = True
            self._context.screen.set_timer(delay, self._draw_when_due)

    def _draw_events(self) -> None:
        pump, turn = self._turn_pump, self._turn
        if pump is None or turn is None:
            return
        batch, done, error = pump.drain_events()
        for event in batch:
            turn.apply_event(event)
            present(event, self._status)
        if error is not None:
            turn.error, turn.version = f"{error}", turn.version + 1
        if done:
            self._turn_pump = self._turn = None
            self._context.is_busy = False
            self._context.status_line.update_status(activity="")
            conversation = self._context.conversation
            if conversation.head is not None:
                turn.set_record(conversation, conversation.get_turn(conversation.head))
        self._context.view.update_turn(turn)
        started, self._thread_time = self._thread_time, thread_time()
        self._drawn_at = monotonic()
        affordable = _DRAW_CPU_DIVISOR * (self._thread_time - started)
        self._draw_interval = min(_MAX_DRAW_INTERVAL_S, max(_MIN_DRAW_INTERVAL_S, affordable))
