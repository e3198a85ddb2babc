"""A step that follows its cause a moment later, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

DEBOUNCE_S = 0.1
"""From the first cause to the step. Streamed text has to be on disk after 250 ms, and a commit takes its time."""

_RETRY_INTERVAL_S = 1.0


class DebouncedWorker:
    """Runs a step, until it is stopped, a moment after it was woken, once for all that came in between.

    Waking it costs nothing while it is awake: the token path does it for every token.
    """

    def __init__(self, operation: Callable[[], bool]) -> None:
        """step: False when it failed and is to be tried again."""
        self._operation = operation
        self._trigger_event, self._stop_event = Event(), Event()
        self._thread: Thread | None = None

    def trigger(self) -> None:
        """There is something to do."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="transcript", daemon=True)
            self._thread.start()
        if not self._trigger_event.is_set():
            self._trigger_event.set()

    def stop(self) -> None:
        """Waits for a step in progress; none follows."""
        self._stop_event.set()
        self._trigger_event.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        delay_s = DEBOUNCE_S
        while self._trigger_event.wait() and not self._stop_event.wait(delay_s):
            self._trigger_event.clear()
            if self._stop_event.is_set():  # its own wake-up may just have been cleared
                return
            if self._operation():
                delay_s = DEBOUNCE_S
            else:
                self._trigger_event.set()
                delay_s = _RETRY_INTERVAL_S
