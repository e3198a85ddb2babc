"""From the pipeline, which blocks, to the screen, which must not: one thread a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Lock, Thread

from phichat.errors import PhichatError
from phichat.events import Event, ReasoningDelta, TextDelta

EventSource = Callable[[], Iterator[Event]]


class EventPump:
    """Consumes the events of one turn and hands them over in batches.

    wake is called from the thread, once per batch: there is no second call until `take` was called.
    Neighbouring deltas of a batch are joined, so that a slow screen never falls behind a fast model.
    """

    def __init__(self, events: EventSource, notify: Callable[[], None]) -> None:
        self._events, self._notify = events, notify
        self._lock = Lock()
        self._batch: list[Event] = []
        self._notified = False
        self._error: PhichatError | None = None
        self._done = False
        self._thread = Thread(target=self._run, name="turn", daemon=True)

    def start(self) -> None:
        """Begin; wake may be called from now on."""
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether the last event has come."""
        with self._lock:
            return self._done

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most so many seconds; whether it came."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def drain_events(self) -> tuple[list[Event], bool, PhichatError | None]:
        """What came since the last call, whether that was all, and the error it ended in."""
        with self._lock:
            batch, self._batch = self._batch, []
            self._notified = False
            return batch, self._done, self._error

    def _run(self) -> None:
        try:
            for event in self._events():
                self._append_event(event)
        except PhichatError as error:
            self._error = error
        except Exception as cause:
            # Nobody would see the thread die; whoever waits for the answer has to be told.
            self._error = PhichatError(f"phichat itself failed ({type(cause).__name__})", "Ask again")
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
            must_notify, self._notified = not self._notified, True
        if must_notify:
            self._notify()
