"""Ctrl-C for commands that stop a generation instead of dying."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from phichat.cancel import CancelToken


@contextmanager
def cancel_on_sigint() -> Iterator[CancelToken]:
    """Set the token on Ctrl-C; a second Ctrl-C raises KeyboardInterrupt."""
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
