"""Work in threads, for a widget or screen that must not block."""

from collections.abc import Callable, Iterator
from threading import Lock, Thread
from typing import TypeVar

from textual.message_pump import MessagePump

from phichat.cancel import CancelToken
from phichat.errors import PhichatError
from phichat.events import Event, ReasoningDelta, TextDelta

Result = TypeVar("Result")


def run_in_thread(
    owner: MessagePump,
    name: str,
    work: Callable[[], Result],
    on_result: Callable[[Result], object],
    on_error: Callable[[PhichatError], object],
) -> Thread:
    """Start work in a daemon thread and return the thread; the owner's event loop calls on_result or on_error."""

    def run() -> None:
        try:
            result = work()
        except PhichatError as error:
            owner.call_later(on_error, error)
        else:
            owner.call_later(on_result, result)

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


class EventPump:
    """A thread that collects events in batches, from its construction on.

    notify is called from the thread once per batch, not again until `drain_events` was called.
    Consecutive deltas of a batch are joined, so that a slow screen never falls behind a fast model.
    is_done: True once all events are in the batches.
    """

    def __init__(self, events: Callable[[CancelToken], Iterator[Event]], notify: Callable[[], object]) -> None:
        self._events, self._notify, self._cancel = events, notify, CancelToken()
        self._lock = Lock()
        self._batch: list[Event] = []
        self._error: PhichatError | None = None
        self.is_done = False
        self.cancel = self._cancel.set
        thread = Thread(target=self._run, name="turn", daemon=True)
        self.wait = thread.join
        thread.start()

    def drain_events(self) -> tuple[list[Event], bool, PhichatError | None]:
        """Return the events since the last call, True if there are no more, and the error that ended them."""
        with self._lock:
            batch, self._batch = self._batch, []
            return batch, self.is_done, self._error

    def _run(self) -> None:
        try:
            for event in self._events(self._cancel):
                self._append_event(event)
        except PhichatError as error:
            self._error = error
        except Exception as cause:
            # The outermost frame of the thread: without this the screen would wait for an answer forever.
            self._error = PhichatError(f"Internal error in phichat ({type(cause).__name__})", "Please try again")
            raise
        finally:
            with self._lock:
                self.is_done = True
            self._notify()

    def _append_event(self, event: Event) -> None:
        with self._lock:
            last = self._batch[-1] if self._batch else None
            match event, last:
                case (TextDelta(text=delta), TextDelta(text=text)):
                    self._batch[-1] = TextDelta(text + delta)
                case (ReasoningDelta(text=delta), ReasoningDelta(text=text)):
                    self._batch[-1] = ReasoningDelta(text + delta)
                case _:
                    self._batch.append(event)
        if last is None:
            self._notify()
