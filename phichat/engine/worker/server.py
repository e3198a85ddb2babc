"""Server of the engine process: it receives the clients' requests and runs their steps in turn.

Three kinds of threads: one per client receives (`ClientRegistry`), one may write KV files (`KvPersistence`), and the
main thread does everything else. The process answers one request of each client at a time, and exits when the last
client disconnects, unless it goes on as a daemon (`DaemonServer`).
"""

from __future__ import annotations

import os
from queue import Empty, SimpleQueue
from threading import Timer
from time import monotonic
from typing import TYPE_CHECKING

from phichat.engine.ipc import protocol
from phichat.engine.worker.clients import Client, ClientRegistry
from phichat.engine.worker.errors import RequestFailed
from phichat.engine.worker.kv_cache.sequences import DecodeStatus
from phichat.engine.worker.scheduler import Job, PendingToken, Scheduler

if TYPE_CHECKING:
    from phichat.engine.worker.daemon_server import DaemonServer
    from phichat.engine.worker.model import Model
    from phichat.engine.worker.request_handler import RequestHandler

_HEARTBEAT_INTERVAL_S = 0.5
_POLL_INTERVAL_S = 0.05  # after which a client that did not read is looked at again
_SAVE_AFTER_IDLE_S = 0.3  # seconds without a request after which a changed sequence is saved
_EXIT_TIMEOUT_S = 30.0


class EngineServer:
    """Any number of clients, at most one model.

    daemon: accepts later clients once its first client detaches; to be set before `run`.
    """

    def __init__(self) -> None:
        self.clients = ClientRegistry(self._queue_request, self._exit_without_clients)
        self.daemon: DaemonServer | None = None
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._scheduler = Scheduler()
        self._running_jobs: tuple[Job, ...] = ()
        self._last_heartbeat_at = 0.0
        self._handler: RequestHandler | None = None

    def run(self) -> None:
        """Load llama.cpp, then answer requests until the process exits; return when the library does not load."""
        from phichat.engine.worker import llama_lib

        try:
            lib = llama_lib.load_library()
            log = llama_lib.LlamaLog(lib)
            lib.llama_backend_init()
            engine_info: protocol.EngineReply = llama_lib.build_engine_info(lib)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            self.clients.broadcast(protocol.ErrorReply(protocol.ErrorCode.LIBRARY, f"{type(error).__name__}: {error}"))
            return
        self.clients.broadcast(engine_info)
        # Imported while the supervisor plans where the model's layers go.
        from phichat.engine.worker.request_handler import RequestHandler

        self._handler = handler = RequestHandler(lib, log, self._scheduler, self.daemon, self._should_abort)
        while True:
            self._receive_requests(handler)
            if job := self._scheduler.pick_next():
                self._advance(handler.model, job)

    def _queue_request(self, client: Client, request: protocol.Request) -> None:
        job = Job(client, request)
        client.cancel_event = job.cancel_event
        self._inbox.put(job)

    def _receive_requests(self, handler: RequestHandler) -> None:
        """Start the requests that have arrived; wait for one when there is nothing else to do."""
        kv_persistence = handler.model.kv_persistence if handler.model else None
        has_dirty = kv_persistence is not None and bool(kv_persistence.dirty)
        try:
            if not self._scheduler.jobs:
                self._start_job(handler, self._inbox.get(timeout=_SAVE_AFTER_IDLE_S if has_dirty else None))
            elif self._scheduler.pick_next() is None:
                self._start_job(handler, self._inbox.get(timeout=_POLL_INTERVAL_S))
            while True:
                self._start_job(handler, self._inbox.get_nowait())
        except Empty:
            if kv_persistence and has_dirty and not self._scheduler.jobs:
                kv_persistence.save_next()

    def _start_job(self, handler: RequestHandler, job: Job | None) -> None:
        if job is not None:
            self._scheduler.add_job(job, handler.answer(job))
            return
        try:
            if handler.model:
                handler.model.kv_persistence.save_all()
        finally:
            os._exit(0)

    def _advance(self, model: Model | None, job: Job) -> None:
        """Run a job's next step; if it needs its pending token, decode those of all jobs in one batch before."""
        pending = self._scheduler.ready_to_decode()
        if model is None or all(other is not job for other, _ in pending):
            self._run_step(job)
            return
        self._running_jobs, started = tuple(other for other, _ in pending), monotonic()
        try:
            status = model.sequence_pool.decode([(one.sequence, (one.token,)) for _, one in pending])
        except RequestFailed:
            status = None  # the job that caused it fails when each decodes its own token
        ended = monotonic()
        for index, (other, _) in enumerate(pending):
            other.waited_s += started - other.last_step_ended_at
            other.compute_s += (ended - started) / len(pending)
            other.last_step_ended_at = ended
            self._run_step(other, index if status is DecodeStatus.DONE else None)

    def _run_step(self, job: Job, logits_index: int | None = None) -> None:
        """Run a job until it yields or ends. logits_index: of its pending token in the batch decoded last."""
        assert job.steps is not None
        self._running_jobs, started = (job,), monotonic()
        job.waited_s += started - job.last_step_ended_at
        reply: protocol.EngineReply | None = None
        try:
            # A generator that was not started accepts nothing but None.
            job.pending_token, yielded = None, job.steps.send(logits_index)
            job.pending_token = yielded if isinstance(yielded, PendingToken) else None
            job.is_blocked = not yielded
        except StopIteration as end:
            reply = end.value
        except RequestFailed as error:
            reply = protocol.ErrorReply(error.code, str(error), error.prompt_tokens)
        except MemoryError:
            reply = protocol.ErrorReply(protocol.ErrorCode.MEMORY, "memory ran out")
        if reply:
            self._scheduler.finish(job)
            self.clients.finish_request(job.client, reply)
        job.last_step_ended_at = monotonic()
        job.compute_s += job.last_step_ended_at - started
        self._send_heartbeats()

    def _send_heartbeats(self) -> None:
        """Tell every waiting client at intervals that this process lives; called between graph nodes too."""
        now = monotonic()
        if now - self._last_heartbeat_at > _HEARTBEAT_INTERVAL_S:
            self._last_heartbeat_at = now
            for job in tuple(self._scheduler.jobs):
                if not job.client.is_backpressured:
                    job.send(protocol.Heartbeat())

    def _should_abort(self) -> bool:
        self._send_heartbeats()
        return any(job.cancel_event.is_set() for job in self._running_jobs)

    def _exit_without_clients(self) -> None:
        if self.daemon is None or not self.daemon.is_detached:
            self.shut_down()

    def shut_down(self) -> None:
        """End this process, from any thread: at once, or as soon as the sequences worth saving are saved.

        Not even a batch that is being computed is finished.
        """
        model = self._handler.model if self._handler else None
        if model is None or not model.kv_persistence.needs_save_on_exit:
            os._exit(0)
        # The process that launched this one reads stderr and need not wait for what follows.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        watchdog = Timer(_EXIT_TIMEOUT_S, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        for job in tuple(self._scheduler.jobs):
            job.cancel_event.set()
        self._inbox.put(None)
