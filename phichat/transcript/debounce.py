"""A background operation that runs a moment after it is triggered."""

from collections.abc import Callable
from threading import Event, Thread

DEBOUNCE_S = 0.1
"""From a trigger to the operation. Streamed text has to be on disk after 250 ms, and a commit takes time."""

_RETRY_INTERVAL_S = 1.0


class DebouncedWorker:
    """Runs an operation in a thread, a moment after it was triggered, once for all triggers in between."""

    def __init__(self, operation: Callable[[], bool]) -> None:
        """operation: returns False where it failed and has to be tried again."""
        self._operation = operation
        self._trigger_event, self._stop_event = Event(), Event()
        self._thread: Thread | None = None

    def trigger(self) -> None:
        """Run the operation soon."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="transcript", daemon=True)
            self._thread.start()
        if not self._trigger_event.is_set():  # set() takes a lock, and every token triggers
            self._trigger_event.set()

    def stop(self) -> None:
        """Wait for the operation in progress, and run no more."""
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
            delay_s = DEBOUNCE_S
            if not self._operation():
                delay_s = _RETRY_INTERVAL_S
                self._trigger_event.set()
