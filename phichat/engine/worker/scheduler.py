"""Whose turn it is in the engine process: requests of several clients, a step of each at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import EngineReply, Request
from phichat.engine.worker.kv_cache.sequences import Sequence, SequencePool


@dataclass(frozen=True, slots=True)
class PendingToken:
    """The last token of a reply, which may be evaluated in one batch with those of others.

    place: how many tokens are before it in the sequence.
    """

    sequence: Sequence
    token: int
    position: int

    @property
    def is_ready(self) -> bool:
        """Whether all that is before it is there: others may have taken the room."""
        return len(self.sequence.cached_tokens) == self.position


RequestSteps = Generator[bool | PendingToken, int | None, EngineReply]
"""The work of a request in steps, none longer than a batch: False from one that has to wait for others. What is due
is answered by the place of its logits in the batch, or by None when it was not evaluated."""

_MAX_QUEUED_REPLIES = 200
"""Replies that wait for a client to read them, after which its request pauses."""


class Client:
    """The other side of one connection.

    patient: replies wait in this process for a client that does not read, so that it keeps nobody waiting.
    Else sending waits for it, and nothing that was sent is lost if this process dies.
    """

    def __init__(self, connection: protocol.Connection, *, buffered: bool) -> None:
        self.connection = connection
        self.job: RequestState | None = None
        self._is_closed = False
        self._outbox: SimpleQueue[EngineReply | None] | None = None
        if buffered:
            self._outbox = SimpleQueue()
            Thread(target=self._send_loop, args=(self._outbox,), daemon=True).start()

    def send(self, reply: EngineReply) -> None:
        """Say something; a client that is gone misses it, as its own listener finds out."""
        if self._outbox is not None:
            self._outbox.put(reply)
            return
        with contextlib.suppress(OSError):
            protocol.send(self.connection, reply)

    def _send_loop(self, outbox: SimpleQueue[EngineReply | None]) -> None:
        with contextlib.suppress(OSError):
            while (reply := outbox.get()) is not None:
                protocol.send(self.connection, reply)

    @property
    def is_backpressured(self) -> bool:
        """Whether it does not read what it is sent."""
        return self._outbox is not None and self._outbox.qsize() > _MAX_QUEUED_REPLIES

    def is_connected(self) -> bool:
        """Whether it is there to ask for more."""
        return not self._is_closed

    def close(self) -> None:
        """It is gone."""
        self._is_closed = True
        if self._outbox is not None:
            self._outbox.put(None)
        self.connection.close()


class RequestState:
    """One request that is being answered.

    used_s: seconds that its steps took; a newcomer starts with what the others have. waited_s: seconds
    before and between its steps; rested_at: when the last one ended.
    due: what it cannot go on without. waits: it can do nothing until another job ends.
    sequences: where it is evaluated.
    """

    def __init__(self, client: Client, request: Request) -> None:
        self.client, self.request = client, request
        self.cancel_event = Event()
        self.received_at = monotonic()
        self.steps: RequestSteps | None = None
        self.pending_token: PendingToken | None = None
        self.compute_s = self.waited_s = 0.0
        self.last_step_ended_at = self.received_at
        self.is_blocked = False
        self.sequences: tuple[Sequence, ...] = ()

    def send(self, reply: EngineReply) -> None:
        """To who asked."""
        self.client.send(reply)


class Scheduler:
    """The jobs that are not done, the oldest first."""

    def __init__(self) -> None:
        self.jobs: list[RequestState] = []

    def add_job(self, job: RequestState, steps: RequestSteps) -> None:
        """A job to do."""
        job.steps = steps
        job.compute_s = min((other.compute_s for other in self.jobs), default=0.0)
        self.jobs.append(job)

    def pick_next(self) -> RequestState | None:
        """The one that is due: that had the least time of those that can go on."""
        runnable = [
            job for job in self.jobs if job.cancel_event.is_set() or not (job.is_blocked or job.client.is_backpressured)
        ]
        return min(runnable, key=lambda job: job.compute_s, default=None)

    def ready_to_decode(self) -> list[tuple[RequestState, PendingToken]]:
        """Who can go on when a token is evaluated, and with which."""
        runnable = (
            job for job in self.jobs if not (job.is_blocked or job.client.is_backpressured or job.cancel_event.is_set())
        )
        return [(job, job.pending_token) for job in runnable if job.pending_token and job.pending_token.is_ready]

    def finish(self, job: RequestState) -> None:
        """It is answered; who waited may find what it needs now."""
        self.jobs.remove(job)
        for other in self.jobs:
            other.is_blocked = False

    def has_contention(self, job: RequestState) -> bool:
        """Whether somebody else is waiting for a turn."""
        return any(other is not job and not other.is_blocked for other in self.jobs)

    def free_cells(self, job: RequestState, pool: SequencePool) -> bool:
        """Free cells of the KV cache for a job; False when older jobs have them all.

        What is idle goes first, then what a job has whose client does not read, or else the youngest one; it
        is evaluated again later.
        """
        if pool.evict_idle():
            return True
        others = [other for other in self.jobs if other is not job and other.client.is_backpressured]
        others += reversed(self.jobs[self.jobs.index(job) + 1 :])
        for other in others:
            if occupied := [sequence for sequence in other.sequences if sequence.cached_tokens]:
                for sequence in occupied:
                    sequence.clear()
                other.is_blocked = True
                return True
        return False
