"""The backend that runs a GGUF file in an engine process of its own."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol, assert_never

from phichat.config import EngineOptions
from phichat.engine import protocol
from phichat.engine.backend import Cancel, GenerationEvent, LoadEvent
from phichat.engine.fitting import BATCH, offload_request
from phichat.engine.footprint import recurrent_state
from phichat.engine.hardware import DeviceKind, Hardware, probe_with, unused_gpu
from phichat.engine.offload import OffloadPlan, plan, require_fit
from phichat.engine.process import WORKER, Deadlines, EngineProcess
from phichat.engine.protocol import Failed, Failure, Load, Loaded, Loading, Reply
from phichat.engine.reply import GrowingReply
from phichat.engine.verdicts import Verdict, Verdicts, subject
from phichat.errors import (
    ContextOverflow,
    EngineCrashed,
    EngineError,
    EngineLoadFailed,
    ModelDoesNotFit,
    ModelFileError,
    PhichatError,
    TemplateError,
)
from phichat.events import ModelChecking, ModelLoading, ModelReady
from phichat.gguf_header import GgufHeader, check_usable, read_model
from phichat.messages import FinishReason, GenerationParams, Message, ModelInfo

_SEQUENCES = 8
"""Conversations that a context holds at once. They share its cells, so that more cost no memory, but for models
whose layers keep a state of fixed size."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A loaded model; everything about it that does not change."""

    process: EngineProcess
    header: GgufHeader
    plan: OffloadPlan
    threads: int
    loaded: Loaded
    library: str
    load_s: float


class FileProof(Protocol):
    """Knows whether a model's file is what it should be."""

    @property
    def sha256(self) -> str:
        """Of the file, "" where nobody has read it whole."""
        ...

    def check(self, cancel: Cancel) -> Iterator[float]:
        """Read the file whole if that is due, yielding the fraction done.

        Raises ModelFileError when it is not what it should be; a set cancel ends it early.
        """
        ...


class LocalBackend:
    """One GGUF file. Starts an engine process when asked to, and a fresh one after every failure.

    proof: what has to pass before the file is loaded. smaller: names and sizes of models to advise when
    this one does not fit.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        options: EngineOptions,
        verdicts: Verdicts,
        deadlines: Deadlines | None = None,
        command: Sequence[str] = WORKER,
        proof: FileProof | None = None,
        smaller: Sequence[tuple[str, int]] = (),
    ) -> None:
        self._name, self._path, self._options = name, path, options
        self._verdicts, self._deadlines = verdicts, deadlines or Deadlines()
        self._command = command
        self._proof, self._smaller = proof, smaller
        self._running: _Running | None = None
        self._unreported_load_s = 0.0

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def n_ctx(self) -> int:
        return self._engine().loaded.n_ctx

    @property
    def header(self) -> GgufHeader:
        """The header of the loaded file."""
        return self._engine().header

    @property
    def plan(self) -> OffloadPlan:
        """Where the loaded model's parts are."""
        return self._engine().plan

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._engine().process.pid

    @property
    def threads(self) -> int:
        """Threads that the engine computes with."""
        return self._engine().threads

    def _engine(self) -> _Running:
        if self._running is None:
            raise EngineError("No model is loaded", "load one first")
        return self._running

    # Loading

    def load(self, cancel: Cancel) -> Iterator[LoadEvent]:
        """As `Backend.load`. Raises ModelFileError, ModelDoesNotFit and EngineError kinds."""
        if self._running and self._running.process.alive:
            return
        self.close()
        started = monotonic()
        yield ModelLoading(self._name, 0.0)
        # The process starts up while the header is read.
        process = self._start()
        try:
            try:
                header = read_model(self._path)
            except ModelFileError:
                # Of a file that is not what it was, the proof can say what to do.
                yield from self._checked(cancel)
                raise
            check_usable(header, self._path)
            hello = process.hello(cancel)
            if hello is None:
                return
            machine = probe_with(hello)
            about = subject(Path(hello.library_file), header)
            known = self._verdicts.lookup(about)
            threads = self._options.threads or machine.physical_cores
            where = plan(header, machine, offload_request(self._options, threads, known))
            require_fit(where, self._name, self._smaller)
            yield from self._checked(cancel)
            if cancel.is_set():
                return
            verdict = known or Verdict.WORKS
            while True:
                try:
                    loaded = yield from self._load_in(
                        process, header, where, threads, verdict, cancel, prove=known is None
                    )
                    break
                except EngineCrashed as crash:
                    if known or verdict is Verdict.CRASHES or not crash.is_fault:
                        raise
                    # Was it this CPU's buffer types? Only a load that works without them tells.
                    verdict, process = Verdict.CRASHES, self._start()
                    if process.hello(cancel) is None:
                        return
            if loaded is None:
                return
            if known is None:
                self._verdicts.remember(about, verdict)
            took = monotonic() - started
            self._running = _Running(process, header, where, threads, loaded, hello.library_version, took)
            self._unreported_load_s = took
            yield self._ready(machine, found_out=verdict if known is None else None)
        finally:
            if self._running is None:
                process.kill()

    def _checked(self, cancel: Cancel) -> Iterator[ModelChecking]:
        """Read the file whole if that is due. Raises ModelFileError when it is not what it should be."""
        if self._proof:
            for fraction in self._proof.check(cancel):
                yield ModelChecking(self._name, fraction)

    def _start(self) -> EngineProcess:
        return EngineProcess(self._deadlines, self._command)

    def _load_in(
        self,
        process: EngineProcess,
        header: GgufHeader,
        where: OffloadPlan,
        threads: int,
        verdict: Verdict,
        cancel: Cancel,
        *,
        prove: bool,
    ) -> Generator[ModelLoading, None, Loaded | None]:
        request = Load(
            path=str(self._path),
            n_ctx=where.n_ctx,
            n_batch=min(BATCH, where.n_ctx),
            sequences=1 if recurrent_state(header) else _SEQUENCES,
            n_gpu_layers=where.n_gpu_layers,
            tensor_split=where.tensor_split,
            type_k=self._options.cache_type_k,
            type_v=self._options.cache_type_v,
            threads=threads,
            extra_buffers=verdict is not Verdict.CRASHES,
            prove=prove,
        )
        process.deadlines = self._deadlines.for_model(where.total)
        for reply in process.ask(request, cancel):
            match reply:
                case Loading():
                    yield ModelLoading(self._name, reply.fraction)
                case Loaded():
                    return reply
                case Failed(failure=Failure.CANCELLED):
                    return None
                case Failed():
                    raise self._failure(reply)
                case _:
                    pass
        return None

    def _ready(self, machine: Hardware, found_out: Verdict | None) -> ModelReady:
        running = self._engine()
        notices = [*running.plan.notices, *running.loaded.notices]
        if gpu := unused_gpu(machine):
            notices.append(gpu)
        if found_out is Verdict.CRASHES:
            notices.append(
                "This build of llama.cpp crashes in this CPU's own buffer types and does without them from now on; "
                "see `phichat doctor`."
            )
        return ModelReady(
            self._info(machine), str(self._path), running.loaded.n_ctx_train, running.load_s, tuple(notices)
        )

    def _info(self, machine: Hardware) -> ModelInfo:
        running, status = self._engine(), self._path.stat()
        return ModelInfo(
            name=self._name,
            architecture=running.header.architecture,
            sha256=self._proof.sha256 if self._proof else "",
            size=running.header.file_size,
            modified_ns=status.st_mtime_ns,
            template_sha256=hashlib.sha256(running.header.chat_template.encode("utf-8", "surrogatepass")).hexdigest(),
            library=running.library,
            n_ctx=running.loaded.n_ctx,
            n_layers=running.header.block_count,
            n_gpu_layers=running.plan.n_gpu_layers,
            devices=tuple(device.name for device in machine.devices if device.kind is not DeviceKind.CPU),
            cache_type_k=self._options.cache_type_k,
            cache_type_v=self._options.cache_type_v,
            threads=running.threads,
        )

    # Asking

    def count(self, messages: Sequence[Message], cancel: Cancel) -> int:
        """As `Backend.count`."""
        for reply in self._ask(protocol.Count(tuple(messages)), cancel):
            if isinstance(reply, protocol.Counted):
                return reply.tokens
        return 0

    def generate(
        self, messages: Sequence[Message], params: GenerationParams, cancel: Cancel, owner: str = ""
    ) -> Iterator[GenerationEvent]:
        """As `Backend.generate`. Raises EngineError kinds, ContextOverflow and TemplateError."""
        seed = params.seed if params.seed is not None else secrets.randbelow(2**32 - 1)
        load_s, self._unreported_load_s = self._unreported_load_s, 0.0
        reply = GrowingReply(self.n_ctx, seed, load_s)
        try:
            for said in self._ask(protocol.Generate(tuple(messages), params, seed, owner), cancel):
                yield from reply.take(said)
        except PhichatError:
            yield reply.finished(FinishReason.ERROR)
            raise
        yield reply.finished()

    def bench(self, request: protocol.Bench, cancel: Cancel) -> Iterator[protocol.Evaluating | protocol.Benched]:
        """Measure the loaded model; ends with Benched, or with nothing more when cancelled."""
        for reply in self._ask(request, cancel):
            if isinstance(reply, (protocol.Evaluating, protocol.Benched)):
                yield reply

    def _ask(self, request: protocol.Request, cancel: Cancel) -> Iterator[Reply]:
        """Replies without Failed: that is raised, or the end when it was cancelled."""
        process = self._engine().process
        try:
            for reply in process.ask(request, cancel):
                if isinstance(reply, Failed):
                    if reply.failure is not Failure.CANCELLED:
                        raise self._failure(reply)
                    return
                yield reply
        finally:
            if not process.alive:
                self._running = None

    def _failure(self, failed: Failed) -> PhichatError:
        match failed.failure:
            case Failure.OVERFLOW:
                return ContextOverflow(failed.tokens, self._engine().loaded.n_ctx)
            case Failure.TEMPLATE:
                return TemplateError(
                    f"The model's chat template refuses these messages ({failed.message})", "try another model"
                )
            case Failure.MEMORY:
                return ModelDoesNotFit(
                    f"{self._name} needs more memory than is free ({failed.message})",
                    "try a smaller --ctx-size, fewer --n-gpu-layers or a smaller model",
                )
            case Failure.LOAD | Failure.LIBRARY:
                return EngineLoadFailed(
                    f"llama.cpp cannot load {self._path} ({failed.message})",
                    "download it again, or update llama-cpp-python if the model is newer",
                )
            case Failure.DECODE | Failure.CANCELLED:
                return EngineError(f"llama.cpp could not evaluate the prompt ({failed.message})", "ask again")
            case _:
                assert_never(failed.failure)

    def close(self) -> None:
        """As `Backend.close`."""
        if self._running:
            self._running.process.close()
            self._running = None
