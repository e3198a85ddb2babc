"""The engine process: `python -m phichat.engine.worker HANDLE... [--door ADDRESS [LISTENER]]`.

A HANDLE is the inherited end of a connection (see `phichat.engine.ipc.process`), the first one that of the
supervisor. The process answers one request of each connection at a time, listens for Cancel meanwhile, and
ends when the last connection does, unless the supervisor has told it to stay. With a door others can come in then:
ADDRESS is the path of its files without their endings, LISTENER the inherited socket.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from time import monotonic
from typing import TYPE_CHECKING, Any, assert_never

from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import (
    EngineReply,
    ErrorCode,
    ErrorReply,
    LoadModel,
    LoadProgress,
    ModelLoaded,
    RenderingTemplate,
    WarmingUp,
)
from phichat.engine.worker.scheduler import Client, PendingToken, RequestState, RequestSteps, Scheduler
from phichat.types import Message

if TYPE_CHECKING:
    from phichat.engine.worker.daemon_server import DaemonServer
    from phichat.engine.worker.model import Model
    from phichat.engine.worker.template import ChatTemplate

_RENDER_TIMEOUT_S = 15.0
"""Longer than the supervisor waits for a template: this ends a process that has no supervisor any more."""


_HEARTBEAT_INTERVAL_S = 0.5
_POLL_INTERVAL_S = 0.05
"""How soon a client that did not read is looked at again."""
_SAVE_AFTER_IDLE_S = 0.3
"""How long nobody has asked for anything before what was said is kept on the disk."""
_EXIT_TIMEOUT_S = 30.0
_CONTENDED_BATCH_DIVISOR = 4
"""The part of a batch that is evaluated at once while others wait."""


class EngineServer:
    """Any number of clients, at most one model. door: where others come in when it stays without its supervisor."""

    def __init__(self, create_daemon: Callable[[EngineServer], DaemonServer] | None = None) -> None:
        self._is_daemon = False
        self._last_active_at = monotonic()
        self.load_fraction = 0.0
        self._clients: list[Client] = []
        self._inbox: SimpleQueue[RequestState | None] = SimpleQueue()
        self._scheduler = Scheduler()
        self._current_jobs: tuple[RequestState, ...] = ()
        self._engine_info: EngineReply | None = None
        self._last_heartbeat_at = 0.0
        self._model: Model | None = None
        self._template: ChatTemplate | None = None
        self._stop_strings: tuple[str, ...] = ()
        self._prompt_cache: dict[Client, tuple[tuple[Message, ...], Any]] = {}
        self._daemon_server = create_daemon(self) if create_daemon else None

    @property
    def client_count(self) -> int:
        """That are connected."""
        return len(self._clients)

    @property
    def idle_seconds(self) -> float:
        """Seconds since it had something to do."""
        return 0.0 if any(client.job for client in tuple(self._clients)) else monotonic() - self._last_active_at

    def add_client(self, connection: protocol.Connection, *, buffered: bool = True) -> None:
        """Serve one more client, from any thread, and say Hello."""
        client = self._register(connection, buffered=buffered)
        if self._engine_info:
            client.send(self._engine_info)

    def add_daemon_client(self, connection: protocol.Connection) -> None:
        """Serve one more client, from any thread, that knows what it has come to."""
        self._register(connection, buffered=True)

    def _register(self, connection: protocol.Connection, *, buffered: bool) -> Client:
        client = Client(connection, buffered=buffered)
        self._clients.append(client)
        Thread(target=self._receive_loop, args=(client,), daemon=True).start()
        return client

    def run(self) -> None:
        """Answer requests for ever."""
        from phichat.engine.worker import llama_lib

        try:
            self._lib = llama_lib.load_library()
            self._log = llama_lib.LlamaLog(self._lib)
            self._lib.llama_backend_init()
            engine_info: EngineReply = llama_lib.build_engine_info(self._lib)
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            engine_info = ErrorReply(ErrorCode.LIBRARY, f"{type(error).__name__}: {error}")
        self._engine_info = engine_info
        for client in tuple(self._clients):
            client.send(engine_info)
        if isinstance(engine_info, ErrorReply):
            return
        import phichat.engine.worker.generation
        import phichat.engine.worker.prompt  # noqa: F401  (while the supervisor plans)

        while True:
            self._receive_requests()
            if job := self._scheduler.pick_next():
                if job.pending_token:
                    self._decode_pending_batch(job)
                else:
                    self._run_step(job)

    def _receive_loop(self, client: Client) -> None:
        with contextlib.suppress(EOFError, OSError, protocol.ProtocolError):
            while True:
                request = protocol.receive_request(client.connection)
                if not isinstance(request, protocol.CancelRequest):
                    client.job = RequestState(client, request)
                    self._inbox.put(client.job)
                elif client.job:
                    client.job.cancel_event.set()
        self._clients.remove(client)
        self._prompt_cache.pop(client, None)
        if client.job:
            client.job.cancel_event.set()
        if not self._clients and not self._is_daemon:
            self.shut_down()
        client.close()

    def shut_down(self) -> None:
        """End this process, from any thread: now, or as soon as the states are kept that are worth it.

        Not even a batch that is being computed is finished.
        """
        if self._model is None or not self._model.kv_persistence.needs_save_on_exit:
            os._exit(0)
        # Who started this process listens there, and need not wait for what follows.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, 2)
        watchdog = Timer(_EXIT_TIMEOUT_S, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        for job in tuple(self._scheduler.jobs):
            job.cancel_event.set()
        self._inbox.put(None)

    def _save_and_exit(self) -> None:
        try:
            self._loaded_model.kv_persistence.save_all()
        finally:
            os._exit(0)

    def _receive_requests(self) -> None:
        """Requests that have come; waits for one when there is nothing else to do."""
        unsaved = self._model is not None and self._model.kv_persistence.has_dirty
        try:
            if not self._scheduler.jobs:
                self._start_job(self._inbox.get(timeout=_SAVE_AFTER_IDLE_S if unsaved else None))
            elif self._scheduler.pick_next() is None:
                self._start_job(self._inbox.get(timeout=_POLL_INTERVAL_S))
            while True:
                self._start_job(self._inbox.get_nowait())
        except Empty:
            if unsaved and not self._scheduler.jobs:
                self._loaded_model.kv_persistence.save_next()

    def _start_job(self, job: RequestState | None) -> None:
        if job is None:
            self._save_and_exit()
        else:
            self._scheduler.add_job(job, self._handle_request(job))

    def _decode_pending_batch(self, job: RequestState) -> None:
        """What it waits for, in one batch with what others wait for; each chooses its next token then."""
        from phichat.engine.worker.kv_cache.sequences import DecodeStatus, RequestFailed

        pending = self._scheduler.ready_to_decode()
        if all(one is not job for one, _ in pending):
            self._run_step(job)
            return
        self._current_jobs, started = tuple(one for one, _ in pending), monotonic()
        try:
            status = self._loaded_model.sequence_pool.decode([(one.sequence, (one.token,)) for _, one in pending])
        except RequestFailed:
            # Who is the cause of it finds out when each is evaluated by itself.
            status = None
        ended = monotonic()
        for index, (one, _) in enumerate(pending):
            one.waited_s += started - one.last_step_ended_at
            one.compute_s += (ended - started) / len(pending)
            one.last_step_ended_at = ended
            self._run_step(one, index if status is DecodeStatus.DONE else None)

    def _run_step(self, job: RequestState, logits_index: int | None = None) -> None:
        """Let it go on. evaluated: the place of the logits that it waits for, in the batch evaluated last."""
        from phichat.engine.worker.kv_cache.sequences import RequestFailed
        from phichat.engine.worker.template import TemplateRejected

        assert job.steps is not None
        self._current_jobs, started = (job,), monotonic()
        job.waited_s += started - job.last_step_ended_at
        try:
            # A generator that was not begun takes nothing but None.
            job.pending_token, yielded = None, job.steps.send(logits_index)
            job.pending_token = yielded if isinstance(yielded, PendingToken) else None
            job.is_blocked = not yielded
        except StopIteration as end:
            self._finish_job(job, end.value)
        except RequestFailed as error:
            self._finish_job(job, ErrorReply(error.failure, error.message, error.tokens))
        except TemplateRejected as error:
            self._finish_job(job, ErrorReply(ErrorCode.TEMPLATE, str(error)))
        except MemoryError:
            self._finish_job(job, ErrorReply(ErrorCode.MEMORY, "memory ran out"))
        job.last_step_ended_at = monotonic()
        job.compute_s += job.last_step_ended_at - started
        self._send_heartbeats()

    def _finish_job(self, job: RequestState, reply: EngineReply) -> None:
        self._scheduler.finish(job)
        if job.client not in self._clients:
            self._prompt_cache.pop(job.client, None)
        job.client.job = None
        self._last_active_at = monotonic()
        job.send(reply)

    def _send_heartbeats(self) -> None:
        """Tell everyone who waits, now and then, that this process lives; called between graph nodes too."""
        now = monotonic()
        if now - self._last_heartbeat_at > _HEARTBEAT_INTERVAL_S:
            self._last_heartbeat_at = now
            for job in tuple(self._scheduler.jobs):
                if not job.client.is_backpressured:
                    job.send(protocol.Heartbeat())

    def _is_cancelled(self) -> bool:
        return any(job.cancel_event.is_set() for job in self._current_jobs)

    def _handle_request(self, job: RequestState) -> RequestSteps:
        request = job.request
        if not isinstance(request, LoadModel):
            while self._model is None and any(isinstance(other.request, LoadModel) for other in self._scheduler.jobs):
                yield False
            if self._model is None:
                return ErrorReply(ErrorCode.LOAD, "no model is loaded")
        match request:
            case LoadModel():
                return self._load_model(request, job.send)
            case protocol.CountTokens():
                return protocol.TokenCount(len(self._build_prompt(job, request.messages).tokens))
            case protocol.Generate():
                from phichat.engine.worker.generation import generate

                prompt = self._build_prompt(job, request.messages)
                return (
                    yield from generate(
                        self._loaded_model,
                        prompt,
                        request,
                        self._stop_strings,
                        job,
                        self._evictor(job),
                        self._step_batch_size,
                    )
                )
            case protocol.GenerateN():
                from phichat.engine.worker.parallel_samples import generate_samples

                prompt = self._build_prompt(job, request.messages)
                return (
                    yield from generate_samples(
                        self._loaded_model,
                        prompt,
                        request,
                        self._stop_strings,
                        job,
                        self._evictor(job),
                        self._step_batch_size,
                    )
                )
            case protocol.RunBenchmark() | protocol.TuneThreads() | protocol.MeasureBatchCosts():
                from phichat.engine.worker.benchmark import run_measurement

                return run_measurement(self._loaded_model, request, job.send)
            case protocol.Detach():
                if self._daemon_server is None:
                    return ErrorReply(ErrorCode.LOAD, "there is no door")
                self._is_daemon = True
                return self._daemon_server.start(request)
            case protocol.Shutdown():
                return self._daemon_server.shut_down_if_unused(1) if self._daemon_server else protocol.StillRunning()
            case protocol.CancelRequest():
                raise AssertionError(request)
            case _:
                assert_never(request)

    def _evictor(self, job: RequestState) -> Callable[[], bool]:
        return lambda: self._scheduler.free_cells(job, self._loaded_model.sequence_pool)

    def _step_batch_size(self) -> int:
        """Tokens to evaluate in one step: others who wait should not wait for long."""
        (job,) = self._current_jobs
        size: int = self._loaded_model.n_batch
        return max(1, size // _CONTENDED_BATCH_DIVISOR) if self._scheduler.has_contention(job) else size

    def _load_model(self, request: LoadModel, send: Callable[[EngineReply], None]) -> ModelLoaded:
        from phichat.engine.worker import template
        from phichat.engine.worker.model import Model

        model = Model(
            self._lib,
            self._log,
            request,
            self._is_cancelled,
            self._send_heartbeats,
            lambda fraction: self._report_load_progress(fraction, send),
        )
        if request.warm_up:
            send(WarmingUp())
            sequence = model.sequence_pool.sequences[0]
            sequence.decode([at % model.tokenizer.size for at in range(min(32, model.n_ctx))])
            model.synchronize()
            sequence.clear()
        name, source, self._stop_strings = template.select_template(
            model.chat_template, model.architecture, model.tokenizer.has_special_token
        )
        self._template = template.ChatTemplate(source, model.tokenizer.bos, model.tokenizer.eos, self._guard_rendering)
        self._model, self._prompt_cache = model, {}
        notices = []
        if name != "file":
            notices.append(f"The file brings no chat template; {name}'s is used.")
        return ModelLoaded(model.n_ctx, model.n_ctx_train, name, tuple(notices))

    def _report_load_progress(self, fraction: float, send: Callable[[EngineReply], None]) -> None:
        self.load_fraction = fraction
        send(LoadProgress(fraction))

    def _build_prompt(self, job: RequestState, messages: tuple[Message, ...]) -> Any:
        """The same messages are usually counted first and then answered."""
        from phichat.engine.worker.prompt import build_prompt

        cached = self._prompt_cache.get(job.client)
        if cached is None or cached[0] != messages:
            cached = self._prompt_cache[job.client] = (
                messages,
                build_prompt(messages, self._chat_template, self._loaded_model.tokenizer),
            )
        return cached[1]

    @property
    def _loaded_model(self) -> Model:
        assert self._model is not None
        return self._model

    @property
    def _chat_template(self) -> ChatTemplate:
        assert self._template is not None
        return self._template

    @contextlib.contextmanager
    def _guard_rendering(self) -> Iterator[None]:
        """A template can hold the interpreter's lock for minutes, and then no thread of it notices
        that the supervisor is gone; faulthandler's timer needs no lock."""
        waiting = tuple(self._scheduler.jobs)
        for job in waiting:
            job.send(RenderingTemplate())
        faulthandler.dump_traceback_later(_RENDER_TIMEOUT_S, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            for job in waiting:
                job.send(protocol.Heartbeat())


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor says when to stop
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When memory runs out the system should take this process, not the one that holds the conversation.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _open_connection(handle: int) -> protocol.Connection:
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        return PipeConnection(handle)
    from multiprocessing.connection import Connection

    return Connection(handle)


def _parse_daemon_args(arguments: list[str]) -> Callable[[EngineServer], DaemonServer] | None:
    if not arguments:
        return None
    from phichat.engine.daemon.registry import DaemonAddress
    from phichat.engine.worker.daemon_server import DaemonServer

    _, stem, *listener = arguments
    return lambda worker: DaemonServer(worker, DaemonAddress(Path(stem)), int(listener[0]) if listener else None)


def main() -> None:
    """Serve the connections whose handles stand in argv; with `--daemon-socket`, also later clients."""
    _prepare_process()
    daemon_args_start = sys.argv.index("--daemon-socket") if "--daemon-socket" in sys.argv else len(sys.argv)
    server = EngineServer(_parse_daemon_args(sys.argv[daemon_args_start:]))
    for index, handle in enumerate(sys.argv[1:daemon_args_start]):
        server.add_client(_open_connection(int(handle)), buffered=index > 0)
    server.run()
