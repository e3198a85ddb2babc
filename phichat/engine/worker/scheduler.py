"""Scheduler of the engine process: the requests of several clients take turns, one step each.

Only the main thread calls it. Between two steps of a job other jobs may have evicted its sequences, so each step
looks at what its sequences still hold.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from threading import Event
from time import monotonic

from phichat.engine.ipc.protocol import EngineReply, Request
from phichat.engine.worker.clients import Client
from phichat.engine.worker.kv_cache.sequences import KvSequence, SequencePool


@dataclass(frozen=True, slots=True)
class PendingToken:
    """Last token of a reply, at its position in the sequence, to be decoded in one batch with those of other jobs."""

    sequence: KvSequence
    token: int
    position: int


JobSteps = Generator[bool | PendingToken, int | None, EngineReply]
"""Work of a request in steps, none longer than a batch. It yields False when it has to wait for other jobs, and a
PendingToken to be sent the index of its logits in the batch, or None when the token was not decoded."""


class Job:
    """One request that is being answered.

    compute_s: seconds that its steps took; a new job starts with the least of the others. waited_s: seconds
    before and between its steps.
    is_blocked: it can do nothing until another job ends. sequences: those that it evaluates tokens in.
    """

    def __init__(self, client: Client, request: Request) -> None:
        self.client, self.request = client, request
        self.send = client.send
        self.cancel_event = Event()
        self.received_at = self.last_step_ended_at = monotonic()
        self.steps: JobSteps | None = None
        self.pending_token: PendingToken | None = None
        self.compute_s = self.waited_s = 0.0
        self.is_blocked = False
        self.sequences: tuple[KvSequence, ...] = ()

    @property
    def is_runnable(self) -> bool:
        return not (self.is_blocked or self.client.is_backpressured)


class Scheduler:
    """Unfinished jobs, the oldest first."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []

    def add_job(self, job: Job, steps: JobSteps) -> None:
        job.steps = steps
        job.compute_s = min((other.compute_s for other in self.jobs), default=0.0)
        self.jobs.append(job)

    def pick_next(self) -> Job | None:
        """Return the runnable or cancelled job that was given the least time."""
        runnable = [job for job in self.jobs if job.cancel_event.is_set() or job.is_runnable]
        return min(runnable, key=lambda job: job.compute_s, default=None)

    def ready_to_decode(self) -> list[tuple[Job, PendingToken]]:
        """Return the jobs whose next step needs one token decoded, with that token, if all before it are cached."""
        runnable = (job for job in self.jobs if job.is_runnable and not job.cancel_event.is_set())
        pending = ((job, job.pending_token) for job in runnable if job.pending_token)
        return [(job, token) for job, token in pending if len(token.sequence.cached_tokens) == token.position]

    def finish(self, job: Job) -> None:
        """Remove an answered job, and let the blocked ones try again."""
        self.jobs.remove(job)
        for other in self.jobs:
            other.is_blocked = False

    def has_contention(self, job: Job) -> bool:
        """Return True if another job could run."""
        return any(other is not job and not other.is_blocked for other in self.jobs)

    def free_cells(self, job: Job, pool: SequencePool) -> bool:
        """Free cells of the KV cache for a job; False when older jobs hold them all.

        Idle sequences go first, then those of a job whose client does not read, then those of the youngest job;
        they are evaluated again later.
        """
        if pool.evict_idle():
            return True
        others = [other for other in self.jobs if other is not job and other.client.is_backpressured]
        others += reversed(self.jobs[self.jobs.index(job) + 1 :])
        for other in others:
            if any(sequence.cached_tokens for sequence in other.sequences):
                for sequence in other.sequences:
                    sequence.clear()
                other.is_blocked = True
                return True
        return False
