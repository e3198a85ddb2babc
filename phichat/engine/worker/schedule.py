"""Whose turn it is in the engine process: requests of several clients, a step of each at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic

from phichat.engine import protocol
from phichat.engine.protocol import Reply, Request
from phichat.engine.worker.sequences import Sequence, Sequences


@dataclass(frozen=True, slots=True)
class Due:
    """The last token of a reply, which may be evaluated in one batch with those of others.

    place: how many tokens are before it in the sequence.
    """

    sequence: Sequence
    token: int
    place: int

    @property
    def can_be_evaluated(self) -> bool:
        """Whether all that is before it is there: others may have taken the room."""
        return len(self.sequence.cached) == self.place


Steps = Generator[bool | Due, int | None, Reply]
"""The work of a request in steps, none longer than a batch: False from one that has to wait for others. What is due
is answered by the place of its logits in the batch, or by None when it was not evaluated."""

_FAR_BEHIND = 200
"""Replies that wait for a client to read them, after which its request pauses."""


class Client:
    """The other side of one connection.

    patient: replies wait in this process for a client that does not read, so that it keeps nobody waiting.
    Else sending waits for it, and nothing that was sent is lost if this process dies.
    """

    def __init__(self, connection: protocol.Connection, *, patient: bool) -> None:
        self.connection = connection
        self.job: Job | None = None
        self._is_gone = False
        self._out: SimpleQueue[Reply | None] | None = None
        if patient:
            self._out = SimpleQueue()
            Thread(target=self._write, args=(self._out,), daemon=True).start()

    def send(self, reply: Reply) -> None:
        """Say something; a client that is gone misses it, as its own listener finds out."""
        if self._out is not None:
            self._out.put(reply)
            return
        with contextlib.suppress(OSError):
            protocol.send(self.connection, reply)

    def _write(self, out: SimpleQueue[Reply | None]) -> None:
        with contextlib.suppress(OSError):
            while (reply := out.get()) is not None:
                protocol.send(self.connection, reply)

    @property
    def is_behind(self) -> bool:
        """Whether it does not read what it is sent."""
        return self._out is not None and self._out.qsize() > _FAR_BEHIND

    def may_go_on(self) -> bool:
        """Whether it is there to ask for more."""
        return not self._is_gone

    def close(self) -> None:
        """It is gone."""
        self._is_gone = True
        if self._out is not None:
            self._out.put(None)
        self.connection.close()


class Job:
    """One request that is being answered.

    used_s: seconds that its steps took; a newcomer starts with what the others have. waited_s: seconds
    before and between its steps; rested_at: when the last one ended.
    due: what it cannot go on without. waits: it can do nothing until another job ends.
    sequences: where it is evaluated.
    """

    def __init__(self, client: Client, request: Request) -> None:
        self.client, self.request = client, request
        self.cancelled = Event()
        self.received_at = monotonic()
        self.steps: Steps | None = None
        self.due: Due | None = None
        self.used_s = self.waited_s = 0.0
        self.rested_at = self.received_at
        self.waits = False
        self.sequences: tuple[Sequence, ...] = ()

    def send(self, reply: Reply) -> None:
        """To who asked."""
        self.client.send(reply)


class Schedule:
    """The jobs that are not done, the oldest first."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def add(self, job: Job, steps: Steps) -> None:
        """A job to do."""
        job.steps = steps
        job.used_s = min((other.used_s for other in self.jobs), default=0.0)
        self.jobs.append(job)

    def next(self) -> Job | None:
        """The one that is due: that had the least time of those that can go on."""
        able = [job for job in self.jobs if job.cancelled.is_set() or not (job.waits or job.client.is_behind)]
        return min(able, key=lambda job: job.used_s, default=None)

    def due(self) -> list[tuple[Job, Due]]:
        """Who can go on when a token is evaluated, and with which."""
        able = (job for job in self.jobs if not (job.waits or job.client.is_behind or job.cancelled.is_set()))
        return [(job, job.due) for job in able if job.due and job.due.can_be_evaluated]

    def done(self, job: Job) -> None:
        """It is answered; who waited may find what it needs now."""
        self.jobs.remove(job)
        for other in self.jobs:
            other.waits = False

    def has_others(self, job: Job) -> bool:
        """Whether somebody else is waiting for a turn."""
        return any(other is not job and not other.waits for other in self.jobs)

    def make_room(self, job: Job, sequences: Sequences) -> bool:
        """Free cells of the KV cache for a job; False when older jobs have them all.

        What is idle goes first, then what a job has whose client does not read, or else the youngest one; it
        is evaluated again later.
        """
        if sequences.give_room():
            return True
        others = [other for other in self.jobs if other is not job and other.client.is_behind]
        others += reversed(self.jobs[self.jobs.index(job) + 1 :])
        for other in others:
            if held := [sequence for sequence in other.sequences if sequence.cached]:
                for sequence in held:
                    sequence.clear()
                other.waits = True
                return True
        return False
