"""Ctrl-C, for verbs that end a generation with it rather than die of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from phichat.engine.cancel import Cancel


@contextmanager
def ctrl_c() -> Iterator[Cancel]:
    """Ctrl-C sets the Cancel; a second one interrupts at once."""
    cancel = Cancel()

    def pressed(number: int, frame: object) -> None:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield cancel
    finally:
        signal.signal(signal.SIGINT, before)
