"""A thread that consumes blocking events, for a screen that must not block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock, Thread

from phichat.cancel import CancelToken
from phichat.errors import PhichatError
from phichat.events import Event, ReasoningDelta, TextDelta

EventSource = Callable[[CancelToken], Iterator[Event]]


class EventPump:
    """Collect events in batches.

    notify is called from the thread once per batch, not again until `drain_events` was called.
    Consecutive deltas of a batch are joined, so that a slow screen never falls behind a fast model.
    """

    def __init__(self, events: EventSource, notify: Callable[[], object]) -> None:
        self._events, self._notify, self._cancel = events, notify, CancelToken()
        self._lock = Lock()
        self._batch: list[Event] = []
        self._error: PhichatError | None = None
        self._done = False
        self._thread = Thread(target=self._run, name="turn", daemon=True)
        self.cancel = self._cancel.set

    def start(self) -> None:
        """Start the thread, which calls notify from now on."""
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """True once all events are in the batches."""
        with self._lock:
            return self._done

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait up to timeout_s seconds for the end of the thread."""
        self._thread.join(timeout_s)

    def drain_events(self) -> tuple[list[Event], bool, PhichatError | None]:
        """Return the events since the last call, True if there are no more, and the error that ended them."""
        with self._lock:
            batch, self._batch = self._batch, []
            return batch, self._done, self._error

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
                self._done = True
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
