"""Dispatcher of requests: a bounded queue in front of a pool of backends, and a thread for each generation."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from enum import Enum, auto
from threading import Lock, Thread

from phichat.engine.backend import Backend, CancelToken
from phichat.errors import ApiError, PhichatError
from phichat.events import Event

GenerateFn = Callable[[Backend, CancelToken], Iterator[Event]]

logger = logging.getLogger(__name__)


class StopCause(Enum):
    """Why a generation was stopped."""

    DISCONNECTED = auto()
    TIMEOUT = auto()
    SHUTDOWN = auto()


def shutting_down_error() -> ApiError:
    """Return the error for clients that wait while the server stops."""
    return ApiError("phichat serve was stopped", "Ask again when it is back", status=503, code="server_stopped")


def _queue_full_error(waiting: int) -> ApiError:
    message = f"The queue is full ({waiting} requests waiting)"
    return ApiError(message, "Ask again later", status=429, code="queue_full", retry_after=5)


class BackendPool:
    """Pool of idle backends, by model. Thread-safe.

    backend_factory: makes a backend by the name of its model; raises PhichatError kinds.
    """

    def __init__(self, backend_factory: Callable[[str], Backend]) -> None:
        self._backend_factory = backend_factory
        self._idle: list[tuple[str, Backend]] = []
        self._lock = Lock()

    @contextlib.contextmanager
    def acquire(self, model: str) -> Iterator[Backend]:
        """Lend a backend for a model: the one used last, else a new one, for which those of other models are unloaded.

        Raises PhichatError kinds.
        """
        backend = self._get_or_create(model)
        try:
            yield backend
        finally:
            with self._lock:
                self._idle.append((model, backend))

    def _get_or_create(self, model: str) -> Backend:
        with self._lock:
            index = next((at for at in reversed(range(len(self._idle))) if self._idle[at][0] == model), None)
            if index is not None:
                return self._idle.pop(index)[1]
            others, self._idle = self._idle, []
        for _, other in others:
            other.unload()
        return self._backend_factory(model)

    def release_idle(self) -> None:
        """Release the engines of idle backends, which can be lent again."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, backend in idle:
            backend.close()
        with self._lock:
            self._idle += idle


class GenerationTask:
    """One generation: a thread does the work, every public method belongs to the event loop.

    on_ended: called on the loop when the backend is free again.
    """

    def __init__(
        self, backends: BackendPool, model: str, generate: GenerateFn, on_ended: Callable[[GenerationTask], None]
    ) -> None:
        self._backends, self._model, self._generate, self._on_ended = backends, model, generate, on_ended
        self._loop = asyncio.get_running_loop()
        self._cancel = CancelToken()
        self._events: list[Event] = []
        self._events_ready = asyncio.Event()
        self._is_finished = False
        self._error: PhichatError | None = None
        self.stop_cause: StopCause | None = None
        Thread(target=self._run, name="answer", daemon=True).start()

    def stop(self, cause: StopCause) -> None:
        """Stop the generation; only the first cause counts."""
        if self.stop_cause is None and not self._is_finished:
            self.stop_cause = cause
            self._cancel.set()

    async def next_events(self, timeout_s: float) -> list[Event] | None:
        """Return the events since the last call, [] when none came within timeout_s, None at the end.

        Raises PhichatError kinds, after the events.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._events_ready.wait()
        new_events, self._events = self._events, []
        if not self._is_finished:
            self._events_ready.clear()
        elif not new_events:
            if self._error is not None:
                raise self._error
            return None
        return new_events

    def _run(self) -> None:
        """Generate, in the thread."""
        error: PhichatError | None = None
        try:
            with self._backends.acquire(self._model) as backend:
                for event in self._generate(backend, self._cancel):
                    self._call_on_loop(self._append_event, event)
        except PhichatError as exc:
            error = exc
        except Exception as exc:
            # The outermost frame of the thread: the client has to get an error.
            logger.exception("Internal server error")
            error = PhichatError(f"Internal server error ({type(exc).__name__})", "Ask again")
        self._call_on_loop(self._finish, error)

    def _call_on_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _append_event(self, event: Event) -> None:
        self._events.append(event)
        self._events_ready.set()

    def _finish(self, error: PhichatError | None) -> None:
        self._error, self._is_finished = error, True
        self._events_ready.set()
        self._on_ended(self)


@dataclass(eq=False)
class Dispatcher:
    """Queue of requests for the backends of a pool.

    max_concurrent: generations at the same time, each on a backend of its own. max_waiting: further requests, each of
    which waits for at most queue_timeout_s. idle_release_s: after the last generation, when idle engines are
    released, None for never; the keep-alive of a background engine counts from there.
    """

    pool: BackendPool
    _: KW_ONLY
    max_concurrent: int
    max_waiting: int
    queue_timeout_s: float
    idle_release_s: float | None = None

    def __post_init__(self) -> None:
        self._slots, self._waiting_count = asyncio.Semaphore(self.max_concurrent), 0
        self._release_timer: asyncio.TimerHandle | None = None
        self._tasks: set[GenerationTask] = set()
        self._is_stopping = False

    async def submit(self, model: str, generate: GenerateFn) -> GenerationTask:
        """Start a generation when a backend is free. Raises ApiError."""
        if self._slots.locked() and self._waiting_count >= self.max_waiting:
            raise _queue_full_error(self._waiting_count)
        self._waiting_count += 1
        try:
            async with asyncio.timeout(self.queue_timeout_s):
                await self._slots.acquire()
        except TimeoutError:
            raise _queue_full_error(self._waiting_count) from None
        finally:
            self._waiting_count -= 1
        if self._is_stopping:
            self._slots.release()
            raise shutting_down_error()
        try:
            task = GenerationTask(self.pool, model, generate, self._on_task_ended)
        except (OSError, RuntimeError):  # no more sockets, no more threads
            self._slots.release()
            raise
        self._tasks.add(task)
        if self._release_timer is not None:
            self._release_timer.cancel()
        return task

    def _on_task_ended(self, task: GenerationTask) -> None:
        self._tasks.discard(task)
        self._slots.release()
        if not self._tasks and (delay_s := self.idle_release_s) is not None:
            loop = asyncio.get_running_loop()
            self._release_timer = loop.call_later(delay_s, loop.run_in_executor, None, self.pool.release_idle)

    def stop(self) -> None:
        """Stop all generations, and start no other."""
        self._is_stopping = True
        for task in self._tasks:
            task.stop(StopCause.SHUTDOWN)

    async def wait_until_idle(self) -> None:
        """Wait until no generation runs."""
        while self._tasks:
            await asyncio.sleep(0.02)
