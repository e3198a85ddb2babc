"""A download in the background, while one chats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Thread

from phichat.cancel import CancelToken
from phichat.errors import PhichatError

DownloadFunction = Callable[[CancelToken], Iterator[str]]


class DownloadThread:
    """Runs one download; what is there when it is cancelled is gone on with by the next one.

    The callbacks are called from the thread: progress with a word for people, done with the error or None.
    """

    def __init__(
        self,
        name: str,
        download: DownloadFunction,
        on_progress: Callable[[str], None],
        on_done: Callable[[PhichatError | None], None],
    ) -> None:
        self.model_name, self._download, self._on_progress, self._on_done = name, download, on_progress, on_done
        self._cancel = CancelToken()
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
            for status in self._download(self._cancel):
                self._on_progress(status)
        except PhichatError as error:
            self._on_done(error)
        else:
            self._on_done(None)
