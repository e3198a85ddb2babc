"""The engine process: `python -m phichat.engine.worker HANDLE... [--door ADDRESS [LISTENER]]`.

A HANDLE is the inherited end of a connection (see `phichat.engine.process`), the first one that of the
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

from phichat.engine import protocol
from phichat.engine.protocol import Failed, Failure, Load, Loaded, Loading, Proving, Rendering, Reply
from phichat.engine.worker.schedule import Client, Due, Job, Schedule, Steps
from phichat.messages import Message

if TYPE_CHECKING:
    from phichat.engine.worker.doors import Doors

_RENDERING_S = 15.0
"""Longer than the supervisor waits for a template: this ends a process that has no supervisor any more."""


_HEARTBEAT_S = 0.5
_PAUSE_S = 0.05
"""How soon a client that did not read is looked at again."""
_IDLE_S = 0.3
"""How long nobody has asked for anything before what was said is kept on the disk."""
_LEAVING_S = 30.0
_SHARES = 4
"""The part of a batch that is evaluated at once while others wait."""


class Worker:
    """Any number of clients, at most one model. door: where others come in when it stays without its supervisor."""

    def __init__(self, door: Callable[[Worker], Doors] | None = None) -> None:
        self._stays = False
        self._busy_at = monotonic()
        self.loaded = 0.0
        self._clients: list[Client] = []
        self._inbox: SimpleQueue[Job | None] = SimpleQueue()
        self._schedule = Schedule()
        self._current: tuple[Job, ...] = ()
        self._hello: Reply | None = None
        self._beaten_at = 0.0
        self._model: Any = None
        self._template: Any = None
        self._stops: tuple[str, ...] = ()
        self._built: dict[Client, tuple[tuple[Message, ...], Any]] = {}
        self._doors = door(self) if door else None

    @property
    def clients(self) -> int:
        """That are connected."""
        return len(self._clients)

    @property
    def quiet_s(self) -> float:
        """Seconds since it had something to do."""
        return 0.0 if any(client.job for client in tuple(self._clients)) else monotonic() - self._busy_at

    def attach(self, connection: protocol.Connection, *, patient: bool = True) -> None:
        """Serve one more client, from any thread, and say Hello."""
        client = self._entered(connection, patient=patient)
        if self._hello:
            client.send(self._hello)

    def admit(self, connection: protocol.Connection) -> None:
        """Serve one more client, from any thread, that knows what it has come to."""
        self._entered(connection, patient=True)

    def _entered(self, connection: protocol.Connection, *, patient: bool) -> Client:
        client = Client(connection, patient=patient)
        self._clients.append(client)
        Thread(target=self._listen, args=(client,), daemon=True).start()
        return client

    def run(self) -> None:
        """Answer requests for ever."""
        from phichat.engine.worker import library

        try:
            self._lib = library.load_library()
            self._log = library.Log(self._lib)
            self._lib.llama_backend_init()
            hello: Reply = library.describe(self._lib)
        except (ImportError, OSError, RuntimeError, AttributeError) as why:
            hello = Failed(Failure.LIBRARY, f"{type(why).__name__}: {why}")
        self._hello = hello
        for client in tuple(self._clients):
            client.send(hello)
        if isinstance(hello, Failed):
            return
        import phichat.engine.worker.generate
        import phichat.engine.worker.prompt  # noqa: F401  (while the supervisor plans)

        while True:
            self._take_in()
            if job := self._schedule.next():
                if job.due:
                    self._evaluate_due(job)
                else:
                    self._step(job)

    def _listen(self, client: Client) -> None:
        with contextlib.suppress(EOFError, OSError, ValueError, KeyError, TypeError):
            while True:
                request = protocol.receive(client.connection)
                if not isinstance(request, protocol.Cancel):
                    client.job = Job(client, request)
                    self._inbox.put(client.job)
                elif client.job:
                    client.job.cancelled.set()
        self._clients.remove(client)
        self._built.pop(client, None)
        if client.job:
            client.job.cancelled.set()
        if not self._clients and not self._stays:
            self.leave()
        client.close()

    def leave(self) -> None:
        """End this process, from any thread: now, or as soon as the states are kept that are worth it.

        Not even a batch that is being computed is finished.
        """
        if self._model is None or not self._model.states.would_save:
            os._exit(0)
        # Who started this process listens there, and need not wait for what follows.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        rescue = Timer(_LEAVING_S, os._exit, (1,))
        rescue.daemon = True
        rescue.start()
        for job in tuple(self._schedule.jobs):
            job.cancelled.set()
        self._inbox.put(None)

    def _leave(self) -> None:
        try:
            self._model.states.save_all()
        finally:
            os._exit(0)

    def _take_in(self) -> None:
        """Requests that have come; waits for one when there is nothing else to do."""
        unsaved = self._model is not None and self._model.states.has_unsaved
        try:
            if not self._schedule.jobs:
                self._begin(self._inbox.get(timeout=_IDLE_S if unsaved else None))
            elif self._schedule.next() is None:
                self._begin(self._inbox.get(timeout=_PAUSE_S))
            while True:
                self._begin(self._inbox.get_nowait())
        except Empty:
            if unsaved and not self._schedule.jobs:
                self._model.states.save_one()

    def _begin(self, job: Job | None) -> None:
        if job is None:
            self._leave()
        else:
            self._schedule.add(job, self._answer(job))

    def _evaluate_due(self, job: Job) -> None:
        """What it waits for, in one batch with what others wait for; each chooses its next token then."""
        from phichat.engine.worker.sequences import Decoded, RequestFailed

        due = self._schedule.due()
        if all(one is not job for one, _ in due):
            self._step(job)
            return
        self._current, begun = tuple(one for one, _ in due), monotonic()
        try:
            done = self._model.sequences.decode([(one.sequence, (one.token,)) for _, one in due])
        except RequestFailed:
            # Who is the cause of it finds out when each is evaluated by itself.
            done = None
        ended = monotonic()
        for at, (one, _) in enumerate(due):
            one.waited_s += begun - one.rested_at
            one.used_s += (ended - begun) / len(due)
            one.rested_at = ended
            self._step(one, at if done is Decoded.DONE else None)

    def _step(self, job: Job, evaluated: int | None = None) -> None:
        """Let it go on. evaluated: the place of the logits that it waits for, in the batch evaluated last."""
        from phichat.engine.worker.sequences import RequestFailed
        from phichat.engine.worker.template import Refused

        assert job.steps is not None
        self._current, begun = (job,), monotonic()
        job.waited_s += begun - job.rested_at
        try:
            # A generator that was not begun takes nothing but None.
            job.due, wanted = None, job.steps.send(evaluated)
            job.due = wanted if isinstance(wanted, Due) else None
            job.waits = not wanted
        except StopIteration as end:
            self._done(job, end.value)
        except RequestFailed as why:
            self._done(job, Failed(why.failure, why.message, why.tokens))
        except Refused as why:
            self._done(job, Failed(Failure.TEMPLATE, str(why)))
        except MemoryError:
            self._done(job, Failed(Failure.MEMORY, "memory ran out"))
        job.rested_at = monotonic()
        job.used_s += job.rested_at - begun
        self._beat()

    def _done(self, job: Job, reply: Reply) -> None:
        self._schedule.done(job)
        if job.client not in self._clients:
            self._built.pop(job.client, None)
        job.client.job = None
        self._busy_at = monotonic()
        job.send(reply)

    def _beat(self) -> None:
        """Tell everyone who waits, now and then, that this process lives; called between graph nodes too."""
        now = monotonic()
        if now - self._beaten_at > _HEARTBEAT_S:
            self._beaten_at = now
            for job in tuple(self._schedule.jobs):
                if not job.client.is_behind:
                    job.send(protocol.Alive())

    def _is_cancelled(self) -> bool:
        return any(job.cancelled.is_set() for job in self._current)

    def _answer(self, job: Job) -> Steps:
        request = job.request
        if not isinstance(request, Load):
            while self._model is None and any(isinstance(other.request, Load) for other in self._schedule.jobs):
                yield False
            if self._model is None:
                return Failed(Failure.LOAD, "no model is loaded")
        match request:
            case Load():
                return self._load(request, job.send)
            case protocol.Count():
                return protocol.Counted(len(self._prompt(job, request.messages).tokens))
            case protocol.Generate():
                from phichat.engine.worker.generate import reply

                prompt = self._prompt(job, request.messages)
                return (yield from reply(self._model, prompt, request, self._stops, job, self._room(job), self._batch))
            case protocol.Sample():
                from phichat.engine.worker.samples import samples

                prompt = self._prompt(job, request.messages)
                return (
                    yield from samples(self._model, prompt, request, self._stops, job, self._room(job), self._batch)
                )
            case protocol.Measure():
                from phichat.engine.worker.bench import measurement

                return measurement(self._model, request, job.send)
            case protocol.Stay():
                if self._doors is None:
                    return Failed(Failure.LOAD, "there is no door")
                self._stays = True
                return self._doors.stay(request)
            case protocol.Leave():
                return self._doors.leave_to(1) if self._doors else protocol.Staying()
            case protocol.Cancel():
                raise AssertionError(request)
            case _:
                assert_never(request)

    def _room(self, job: Job) -> Callable[[], bool]:
        return lambda: self._schedule.make_room(job, self._model.sequences)

    def _batch(self) -> int:
        """Tokens to evaluate in one step: others who wait should not wait for long."""
        (job,) = self._current
        size: int = self._model.n_batch
        return max(1, size // _SHARES) if self._schedule.has_others(job) else size

    def _load(self, request: Load, send: Callable[[Reply], None]) -> Loaded:
        from phichat.engine.worker import template
        from phichat.engine.worker.model import Model

        model = Model(
            self._lib,
            self._log,
            request,
            self._is_cancelled,
            self._beat,
            lambda fraction: self._loading(fraction, send),
        )
        if request.prove:
            send(Proving())
            sequence = model.sequences.all[0]
            sequence.decode([at % model.vocabulary.size for at in range(min(32, model.n_ctx))])
            model.synchronize()
            sequence.clear()
        name, source, self._stops = template.choose(model.template, model.architecture, model.vocabulary.has)
        self._template = template.ChatTemplate(source, model.vocabulary.bos, model.vocabulary.eos, self._rendering)
        self._model, self._built = model, {}
        notices = []
        if name != "file":
            notices.append(f"The file brings no chat template; {name}'s is used.")
        return Loaded(model.n_ctx, model.n_ctx_train, name, tuple(notices))

    def _loading(self, fraction: float, send: Callable[[Reply], None]) -> None:
        self.loaded = fraction
        send(Loading(fraction))

    def _prompt(self, job: Job, messages: tuple[Message, ...]) -> Any:
        """The same messages are usually counted first and then answered."""
        from phichat.engine.worker.prompt import build

        built = self._built.get(job.client)
        if built is None or built[0] != messages:
            built = self._built[job.client] = messages, build(messages, self._template, self._model.vocabulary)
        return built[1]

    @contextlib.contextmanager
    def _rendering(self) -> Iterator[None]:
        """A template can hold the interpreter's lock for minutes, and then no thread of it notices
        that the supervisor is gone; faulthandler's timer needs no lock."""
        waiting = tuple(self._schedule.jobs)
        for job in waiting:
            job.send(Rendering())
        faulthandler.dump_traceback_later(_RENDERING_S, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            for job in waiting:
                job.send(protocol.Alive())


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor says when to stop
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # When memory runs out the system should take this process, not the one that holds the conversation.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("800")


def _connect(handle: int) -> protocol.Connection:
    if sys.platform == "win32":
        from multiprocessing.connection import PipeConnection

        return PipeConnection(handle)
    from multiprocessing.connection import Connection

    return Connection(handle)


def _door(arguments: list[str]) -> Callable[[Worker], Doors] | None:
    if not arguments:
        return None
    from phichat.engine.resident.address import Address
    from phichat.engine.worker.doors import Doors

    _, stem, *listener = arguments
    return lambda worker: Doors(worker, Address(Path(stem)), int(listener[0]) if listener else None)


if __name__ == "__main__":
    _prepare_process()
    at = sys.argv.index("--door") if "--door" in sys.argv else len(sys.argv)
    worker = Worker(_door(sys.argv[at:]))
    for number, handle in enumerate(sys.argv[1:at]):
        worker.attach(_connect(int(handle)), patient=number > 0)
    worker.run()
