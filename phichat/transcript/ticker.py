"""A step that follows its cause a moment later, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

GATHER_S = 0.1
"""From the first cause to the step. Streamed text has to be on disk after 250 ms, and a commit takes its time."""

_RETRY_S = 1.0


class Ticker:
    """Runs a step, until it is stopped, a moment after it was woken, once for all that came in between.

    Waking it costs nothing while it is awake: the token path does it for every token.
    """

    def __init__(self, step: Callable[[], bool]) -> None:
        """step: False when it failed and is to be tried again."""
        self._step = step
        self._woken, self._stopped = Event(), Event()
        self._thread: Thread | None = None

    def wake(self) -> None:
        """There is something to do."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="transcript", daemon=True)
            self._thread.start()
        if not self._woken.is_set():
            self._woken.set()

    def stop(self) -> None:
        """Waits for a step in progress; none follows."""
        self._stopped.set()
        self._woken.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = GATHER_S
        while self._woken.wait() and not self._stopped.wait(pause):
            self._woken.clear()
            if self._stopped.is_set():  # its own wake-up may just have been cleared
                return
            if self._step():
                pause = GATHER_S
            else:
                self._woken.set()
                pause = _RETRY_S
