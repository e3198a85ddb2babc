"""Work in a thread, with its result handed to the event loop of a widget or screen."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from textual.message_pump import MessagePump

from phichat.errors import PhichatError

Result = TypeVar("Result")


def run_in_thread(
    owner: MessagePump,
    name: str,
    work: Callable[[], Result],
    on_result: Callable[[Result], object],
    on_error: Callable[[PhichatError], object],
) -> Thread:
    """Start work in a daemon thread and return the thread; the owner's event loop calls on_result or on_error."""

    def run() -> None:
        try:
            result = work()
        except PhichatError as error:
            owner.call_later(on_error, error)
        else:
            owner.call_later(on_result, result)

    thread = Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread
