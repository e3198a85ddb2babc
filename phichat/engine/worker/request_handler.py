"""Answers to the requests that clients send to an engine process."""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, assert_never

from phichat.engine.ipc import protocol
from phichat.engine.ipc.protocol import LoadModel
from phichat.engine.worker.errors import RequestFailed
from phichat.engine.worker.generation import GenerationContext, generate
from phichat.engine.worker.llama_lib import LlamaLog
from phichat.engine.worker.model import Model
from phichat.engine.worker.parallel_samples import generate_samples
from phichat.engine.worker.prompt import TokenizedPrompt, build_prompt
from phichat.engine.worker.scheduler import Job, JobSteps, Scheduler
from phichat.engine.worker.template import ChatTemplate, select_template
from phichat.types import Message

if TYPE_CHECKING:
    from phichat.engine.worker.daemon_server import DaemonServer

_RENDER_TIMEOUT_S = 15.0
"""Longer than the supervisor waits for a template: this ends a process that has no supervisor any more."""
_WARM_UP_TOKENS = 32


class RequestHandler:
    """Answers requests with the one model of this process. Only the main thread uses it.

    should_abort: called between graph nodes of a batch.
    """

    def __init__(
        self,
        lib: Any,
        log: LlamaLog,
        scheduler: Scheduler,
        daemon: DaemonServer | None,
        should_abort: Callable[[], bool],
    ) -> None:
        self._lib, self._log, self._scheduler, self._daemon = lib, log, scheduler, daemon
        self._should_abort = should_abort
        self.model: Model | None = None
        self._template: ChatTemplate  # since a model is loaded
        self._stop_strings: tuple[str, ...] = ()

    def answer(self, job: Job) -> JobSteps:
        """Answer a request in steps. Raises RequestFailed."""
        request = job.request
        if isinstance(request, LoadModel):
            return self._load_model(request, job)
        while (model := self.model) is None and any(isinstance(job.request, LoadModel) for job in self._scheduler.jobs):
            yield False
        if model is None:
            raise RequestFailed(protocol.ErrorCode.LOAD, "no model is loaded")
        match request:
            case protocol.CountTokens():
                return protocol.TokenCount(len(self._build_prompt(model, job, request.messages).tokens))
            case protocol.Generate() | protocol.GenerateN():
                prompt = self._build_prompt(model, job, request.messages)
                params = replace(request.params, stop=(*self._stop_strings, *request.params.stop))
                context = GenerationContext(model, self._scheduler, job, prompt, params)
                if isinstance(request, protocol.Generate):
                    return (yield from generate(context, request))
                return (yield from generate_samples(context, request))
            case protocol.RunBenchmark() | protocol.TuneThreads() | protocol.MeasureBatchCosts():
                from phichat.engine.worker.benchmark import run_measurement

                return run_measurement(model, request, job.send)
            case protocol.Detach():
                if self._daemon is None:
                    raise RequestFailed(protocol.ErrorCode.LOAD, "it has no socket for later clients")
                return self._daemon.start(request)
            case protocol.Shutdown():
                return self._daemon.shut_down_if_unused() if self._daemon else protocol.StillRunning()
            case protocol.CancelRequest():
                raise AssertionError(request)
            case _:
                assert_never(request)

    def _load_model(self, request: LoadModel, job: Job) -> protocol.ModelLoaded:
        def report_progress(fraction: float) -> None:
            if self._daemon:
                self._daemon.load_fraction = fraction
            job.send(protocol.LoadProgress(fraction))

        model = Model(self._lib, self._log, request, self._should_abort, report_progress)
        tokenizer = model.tokenizer
        if request.warm_up:
            job.send(protocol.WarmingUp())
            sequence = model.sequence_pool.sequences[0]
            sequence.decode([index % tokenizer.size for index in range(min(_WARM_UP_TOKENS, model.n_ctx))])
            model.synchronize()
            sequence.clear()
        has_token = tokenizer.has_special_token
        name, source, self._stop_strings = select_template(model.chat_template, model.architecture, has_token)
        self._template = ChatTemplate(source, tokenizer.bos, tokenizer.eos, self._guard_rendering)
        self.model = model
        notices = () if name == "file" else (f"The file has no chat template. Using the template of {name}.",)
        return protocol.ModelLoaded(model.n_ctx, model.n_ctx_train, name, notices)

    def _build_prompt(self, model: Model, job: Job, messages: tuple[Message, ...]) -> TokenizedPrompt:
        """Render and tokenize the messages; they are usually counted first and answered then."""
        key, client = (self._template, messages), job.client
        if key not in client.prompt_cache:
            client.prompt_cache = {key: build_prompt(messages, self._template, model.tokenizer)}
        prompt: TokenizedPrompt = client.prompt_cache[key]
        return prompt

    @contextlib.contextmanager
    def _guard_rendering(self) -> Iterator[None]:
        """Watch over a rendering: a template can hold the interpreter's lock for minutes.

        No thread of this process notices then that the supervisor is gone; faulthandler's timer needs no lock.
        """
        for job in self._scheduler.jobs:
            job.send(protocol.RenderingTemplate())
        faulthandler.dump_traceback_later(_RENDER_TIMEOUT_S, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            for job in self._scheduler.jobs:
                job.send(protocol.Heartbeat())
