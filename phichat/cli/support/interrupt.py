"""Ctrl-C, for verbs that end a generation with it rather than die of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from phichat.cancel import CancelToken


@contextmanager
def cancel_on_sigint() -> Iterator[CancelToken]:
    """Ctrl-C sets the Cancel; a second one interrupts at once."""
    cancel = CancelToken()

    def handle_sigint(signum: int, frame: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    previous = signal.signal(signal.SIGINT, handle_sigint)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, previous)
