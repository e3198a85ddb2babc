"""A download in the background, while one chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

from phichat.engine.cancel import Cancel
from phichat.errors import PhichatError

Progress = Callable[[Cancel], Iterator[str]]


class PullThread:
    """Runs one download; what is there when it is cancelled is gone on with by the next one.

    The callbacks are called from the thread: progress with a word for people, done with the error or None.
    """

    def __init__(
        self,
        name: str,
        pull: Progress,
        progress: Callable[[str], None],
        done: Callable[[PhichatError | None], None],
    ) -> None:
        self.name, self._pull, self._progress, self._done = name, pull, progress, done
        self._cancel = Cancel()
        self._thread = Thread(target=self._run, name="pull", daemon=True)
        self._thread.start()

    @property
    def was_cancelled(self) -> bool:
        return self._cancel.is_set()

    def cancel(self, timeout_s: float = 2.0) -> None:
        """Stop it, and wait a little until it has."""
        self._cancel.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            for word in self._pull(self._cancel):
                self._progress(word)
        except PhichatError as error:
            self._done(error)
        else:
            self._done(None)
