"""Who is answered when: a bounded line in front of a number of backends, and a thread for each answer."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from enum import StrEnum
from threading import Lock, Thread

from phichat.engine.backend import Backend, Cancel
from phichat.errors import PhichatError, RequestRefused
from phichat.events import Event

Work = Callable[[Backend, Cancel], Iterator[Event]]
"""Asks a backend."""

_ASK_AGAIN_S = 5

logger = logging.getLogger(__name__)


class Why(StrEnum):
    """Why an answer was ended before its end."""

    LEFT = "the client has left"
    TIME = "the time was over"
    STOPPED = "the server was stopped"


def stopped() -> RequestRefused:
    """The server ends."""
    return RequestRefused("phichat serve was stopped", "ask again when it is back", status=503, code="server_stopped")


def _busy(waiting: int) -> RequestRefused:
    return RequestRefused(
        f"{waiting} requests are waiting already",
        "ask again later",
        status=429,
        code="queue_full",
        retry_after=_ASK_AGAIN_S,
    )


class Backends:
    """Those that are not answering, by the model they are for. From any thread."""

    def __init__(self, backend_for: Callable[[str], Backend]) -> None:
        """backend_for: makes one by the name of its model. Raises PhichatError kinds."""
        self._backend_for = backend_for
        self._idle: list[tuple[str, Backend]] = []
        self._lock = Lock()

    @contextlib.contextmanager
    def lent(self, model: str) -> Iterator[Backend]:
        """One for that model: the one used last, else a new one for which those of other models make room.

        Raises PhichatError kinds.
        """
        backend = self._taken(model)
        try:
            yield backend
        finally:
            with self._lock:
                self._idle.append((model, backend))

    def _taken(self, model: str) -> Backend:
        with self._lock:
            at = next((at for at in reversed(range(len(self._idle))) if self._idle[at][0] == model), None)
            if at is not None:
                return self._idle.pop(at)[1]
            in_the_way, self._idle = self._idle, []
        for _, other in in_the_way:
            other.unload()
        return self._backend_for(model)

    def let_go(self) -> None:
        """Of the engines behind those that are idle; they can be lent again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, backend in idle:
            backend.close()
        with self._lock:
            self._idle += idle


class Answer:
    """One that is being made. All methods belong to the event loop; a thread of its own does the work."""

    def __init__(self, backends: Backends, model: str, work: Work, ended: Callable[[Answer], None]) -> None:
        """ended: called on the loop when the backend is free again."""
        self._backends, self._model, self._work, self._when_ended = backends, model, work, ended
        self._loop = asyncio.get_running_loop()
        self._cancel = Cancel()
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._is_over = False
        self._error: PhichatError | None = None
        self.why: Why | None = None
        Thread(target=self._run, name="answer", daemon=True).start()

    def stop(self, why: Why) -> None:
        """End it; only the first reason counts."""
        if self.why is None and not self._is_over:
            self.why = why
            self._cancel.set()

    async def events(self, patience_s: float) -> list[Event] | None:
        """What has come since the last call, once there is something or the patience is over; None at the end.

        Raises PhichatError kinds, after the events.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._news.wait()
        came, self._events = self._events, []
        if self._is_over and not came:
            if self._error is not None:
                raise self._error
            return None
        if not self._is_over:
            self._news.clear()
        return came

    # In the thread

    def _run(self) -> None:
        error: PhichatError | None = None
        try:
            with self._backends.lent(self._model) as backend:
                for event in self._work(backend, self._cancel):
                    self._tell(lambda event=event: self._take(event))  # type: ignore[misc]
        except PhichatError as why:
            error = why
        except Exception as why:
            # The thread ends here: whoever waits for the answer has to be told.
            logger.exception("phichat itself failed")
            error = PhichatError(f"phichat itself failed ({type(why).__name__})", "ask again")
        self._tell(lambda: self._end(error))

    def _tell(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and with it whoever would listen
            self._loop.call_soon_threadsafe(call)

    # On the loop again

    def _take(self, event: Event) -> None:
        self._events.append(event)
        self._news.set()

    def _end(self, error: PhichatError | None) -> None:
        self._error, self._is_over = error, True
        self._news.set()
        self._when_ended(self)


class Engines:
    """at_once: how many requests are answered at the same time, each by a backend of its own; waiting: how many
    may stand in line behind them; patience_s: for how long. pause_s: without any request, after which engines are
    let go of, None for never: an engine that stays for a while counts from there."""

    def __init__(
        self, backends: Backends, *, at_once: int, waiting: int, patience_s: float, pause_s: float | None = None
    ) -> None:
        self._backends, self._pause_s = backends, pause_s
        self._pause: asyncio.TimerHandle | None = None
        self._free = asyncio.Semaphore(at_once)
        self._most_waiting, self._patience_s = waiting, patience_s
        self._waiting = 0
        self._answers: set[Answer] = set()
        self._is_stopping = False

    async def answer(self, model: str, work: Work) -> Answer:
        """Begin one when it is its turn. Raises RequestRefused."""
        if self._free.locked() and self._waiting >= self._most_waiting:
            raise _busy(self._waiting)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._patience_s):
                await self._free.acquire()
        except TimeoutError:
            raise _busy(self._waiting) from None
        finally:
            self._waiting -= 1
        if self._is_stopping:
            self._free.release()
            raise stopped()
        try:
            answer = Answer(self._backends, model, work, self._ended)
        except (OSError, RuntimeError):  # no more sockets, no more threads
            self._free.release()
            raise
        self._answers.add(answer)
        if self._pause is not None:
            self._pause.cancel()
        return answer

    def _ended(self, answer: Answer) -> None:
        self._answers.discard(answer)
        self._free.release()
        if not self._answers and self._pause_s is not None:
            loop = asyncio.get_running_loop()
            self._pause = loop.call_later(self._pause_s, loop.run_in_executor, None, self._backends.let_go)

    def stop(self) -> None:
        """End every answer, and begin no other."""
        self._is_stopping = True
        for answer in self._answers:
            answer.stop(Why.STOPPED)

    async def ended(self) -> None:
        """Wait until no thread is at work."""
        while self._answers:
            await asyncio.sleep(0.02)
