"""The engine process: `python -m phichat.engine.worker HANDLE`.

HANDLE is the inherited end of a connection (see `phichat.engine.process`). The process answers one
request at a time, listens for Cancel meanwhile, and ends when the connection does.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from time import monotonic
from typing import Any, assert_never

from phichat.engine import protocol
from phichat.engine.protocol import Failed, Failure, Load, Loaded, Loading, Proving, Rendering, Reply, Request
from phichat.messages import Message

_RENDERING_S = 15.0
"""Longer than the supervisor waits for a template: this ends a process that has no supervisor any more."""


class Worker:
    """One connection, at most one model."""

    def __init__(self, connection: protocol.Connection) -> None:
        self._connection = connection
        self._requests: SimpleQueue[Request] = SimpleQueue()
        self._cancel = Event()
        self._model: Any = None
        self._template: Any = None
        self._stops: tuple[str, ...] = ()
        self._built: tuple[tuple[Message, ...], Any] | None = None

    def run(self) -> None:
        """Answer requests for ever."""
        Thread(target=self._listen, daemon=True).start()
        from phichat.engine.worker import library

        try:
            self._lib = library.load_library()
            self._log = library.Log(self._lib)
            self._lib.llama_backend_init()
            self._send(library.describe(self._lib))
        except (ImportError, OSError, RuntimeError, AttributeError) as why:
            self._send(Failed(Failure.LIBRARY, f"{type(why).__name__}: {why}"))
            return
        import phichat.engine.worker.generate
        import phichat.engine.worker.prompt  # noqa: F401  (while the supervisor plans)

        while True:
            self._answer(self._requests.get())

    def _listen(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = protocol.receive(self._connection)
                if isinstance(request, protocol.Cancel):
                    self._cancel.set()
                else:
                    self._cancel.clear()
                    self._requests.put(request)
        # Nobody is left to answer: not even a batch that is being computed is worth finishing.
        os._exit(0)

    def _send(self, reply: Reply) -> None:
        try:
            protocol.send(self._connection, reply)
        except OSError:
            os._exit(0)

    def _answer(self, request: Request) -> None:
        from phichat.engine.worker.model import RequestFailed
        from phichat.engine.worker.template import Refused

        started = monotonic()
        try:
            match request:
                case protocol.Load():
                    self._send(self._load(request))
                case protocol.Count():
                    self._send(protocol.Counted(len(self._prompt(request.messages).tokens)))
                case protocol.Generate():
                    from phichat.engine.worker.generate import reply

                    prompt = self._prompt(request.messages)
                    self._send(
                        reply(self._model, prompt, request.params, request.seed, self._stops, started, self._send)
                    )
                case protocol.Bench():
                    from phichat.engine.worker.bench import bench

                    self._send(bench(self._model, request, self._send))
                case protocol.Cancel():
                    pass
                case _:
                    assert_never(request)
        except RequestFailed as why:
            self._send(Failed(why.failure, why.message, why.tokens))
        except Refused as why:
            self._send(Failed(Failure.TEMPLATE, str(why)))
        except MemoryError:
            self._send(Failed(Failure.MEMORY, "memory ran out"))

    def _load(self, request: Load) -> Loaded:
        from phichat.engine.worker import template
        from phichat.engine.worker.model import Model

        model = Model(
            self._lib,
            self._log,
            request,
            self._cancel.is_set,
            lambda: self._send(protocol.Alive()),
            lambda fraction: self._send(Loading(fraction)),
        )
        if request.prove:
            self._send(Proving())
            tokens = [at % model.vocabulary.size for at in range(32)]
            model.evaluate(tokens[: model.n_ctx], lambda _: None)
            model.synchronize()
            model.clear()
        name, source, self._stops = template.choose(model.template, model.architecture, model.vocabulary.has)
        self._template = template.ChatTemplate(source, model.vocabulary.bos, model.vocabulary.eos, self._rendering)
        self._model, self._built = model, None
        notices = []
        if name != "file":
            notices.append(f"The file brings no chat template; {name}'s is used.")
        return Loaded(model.n_ctx, model.n_ctx_train, name, tuple(notices))

    def _prompt(self, messages: tuple[Message, ...]) -> Any:
        """The same messages are usually counted first and then answered."""
        from phichat.engine.worker.prompt import build

        if self._built is None or self._built[0] != messages:
            self._built = messages, build(messages, self._template, self._model.vocabulary)
        return self._built[1]

    @contextlib.contextmanager
    def _rendering(self) -> Iterator[None]:
        """A template can hold the interpreter's lock for minutes, and then no thread of it notices
        that the supervisor is gone; faulthandler's timer needs no lock."""
        self._send(Rendering())
        faulthandler.dump_traceback_later(_RENDERING_S, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._send(protocol.Alive())


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


if __name__ == "__main__":
    _prepare_process()
    Worker(_connect(int(sys.argv[1]))).run()
