"""The backend that runs a GGUF file in an engine process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

from phichat.config import EngineOptions
from phichat.engine import protocol
from phichat.engine.asking import Asking
from phichat.engine.backend import Cancel, LoadEvent
from phichat.engine.fitting import BATCH, is_cramped, place
from phichat.engine.footprint import recurrent_state
from phichat.engine.hardware import DeviceKind, Hardware, probe_with, unused_gpu
from phichat.engine.link import Deadlines, EngineLink
from phichat.engine.offload import CPU, OffloadPlan, require_fit
from phichat.engine.process import WORKER, EngineProcess
from phichat.engine.protocol import Failed, Failure, Hello, Load, Loaded, Loading
from phichat.engine.states import StateFolder, identity
from phichat.engine.tuning import ASSUMED_BATCH_COSTS, Fixed, Measured, Preferences, Threads, spin_count_for
from phichat.engine.verdicts import Subject, Verdict, Verdicts, subject
from phichat.errors import EngineCrashed, EngineError, ModelFileError
from phichat.events import ModelChecking, ModelLoading, ModelReady
from phichat.gguf_header import GgufHeader, check_usable, read_model
from phichat.messages import ModelInfo

_SEQUENCES = 8
"""Conversations that a context holds at once. They share its cells, so that more cost no memory, but for models
whose layers keep a state of fixed size."""


_CRASHES = (
    "This build of llama.cpp crashes in this CPU's own buffer types and does without them from now on; "
    "see `phichat doctor`."
)


@dataclass(frozen=True, slots=True)
class _Running:
    """A loaded model; everything about it that does not change."""

    process: EngineProcess
    header: GgufHeader
    plan: OffloadPlan
    threads: Threads
    loaded: Loaded
    hello: Hello
    info: ModelInfo
    notices: tuple[str, ...]


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


class LocalBackend(Asking):
    """One GGUF file. Starts an engine process when asked to, and a fresh one after every failure.

    proof: what has to pass before the file is loaded. smaller: names and sizes of models to advise when
    this one does not fit. start: another way to start an engine process. make_room: asks those to leave who hold
    memory without need, and says whether any did. states: where KV states are kept, None to keep and use none.
    preferences: what was measured here.
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
        start: Callable[[Deadlines, int], EngineProcess] | None = None,
        make_room: Callable[[], bool] | None = None,
        states: StateFolder | None = None,
        preferences: Preferences | None = None,
    ) -> None:
        super().__init__(name, path)
        self._options = options
        self._verdicts, self._deadlines = verdicts, deadlines or Deadlines()
        self._start_one = start or (lambda deadlines, spin: EngineProcess(deadlines, command, spin_count=spin))
        self._preferences = preferences or Fixed()
        self._make_room = make_room
        self._proof, self._smaller, self._states = proof, smaller, states
        self._running: _Running | None = None

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
    def threads(self) -> Threads:
        """What the engine computes with."""
        return self._engine().threads

    @property
    def library_file(self) -> Path:
        """The shared library that the engine has loaded."""
        return Path(self._engine().hello.library_file)

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
        process, is_loaded = self._start(), False
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
            where = place(header, machine, self._options, known)
            if self._make_room and is_cramped(where, header, machine, self._options, known) and self._make_room():
                process.kill()
                process = self._start()
                hello = process.hello(cancel)
                if hello is None:
                    return
                machine = probe_with(hello)
                where = place(header, machine, self._options, known)
            require_fit(where, self._name, self._smaller)
            computing = self._computing(hello, machine, header, where)
            yield from self._checked(cancel)
            if cancel.is_set():
                return
            verdict = known or Verdict.WORKS
            same = self._identity(header, Path(hello.library_file), about)
            while True:
                try:
                    loaded = yield from self._load_in(
                        process, header, where, computing, verdict, cancel, same, prove=known is None
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
            notices = [*where.notices, *loaded.notices]
            if gpu := unused_gpu(machine):
                notices.append(gpu)
            info = self._info(header, where, computing.threads, loaded, hello, machine)
            self._running = _Running(process, header, where, computing.threads, loaded, hello, info, tuple(notices))
            is_loaded = True
            self._unreported_load_s = monotonic() - started
            if known is None and verdict is Verdict.CRASHES:
                notices.append(_CRASHES)
            yield ModelReady(info, str(self._path), loaded.n_ctx_train, self._unreported_load_s, tuple(notices))
        finally:
            if not is_loaded:
                process.kill()

    def _checked(self, cancel: Cancel) -> Iterator[ModelChecking]:
        """Read the file whole if that is due. Raises ModelFileError when it is not what it should be."""
        if self._proof:
            for fraction in self._proof.check(cancel):
                yield ModelChecking(self._name, fraction)

    def _start(self) -> EngineProcess:
        return self._start_one(self._deadlines, spin_count_for(self._path, self._preferences))

    def _computing(self, hello: Hello, machine: Hardware, header: GgufHeader, where: OffloadPlan) -> Measured:
        offloaded, given = where.n_gpu_layers > 0, self._options.threads
        measured = self._preferences.measured(Path(hello.library_file), header, offloaded=offloaded)
        usual = given or machine.physical_cores
        threads = measured.threads if measured and not given else Threads(usual, usual)
        match self._options.draft:
            case "off":
                return Measured(threads)
            case "auto":
                # Costs hold for the threads that they were measured with.
                return Measured(threads, measured.batch_costs if measured and threads == measured.threads else ())
            case "lookup":
                return Measured(threads, (measured and measured.batch_costs) or ASSUMED_BATCH_COSTS)

    def _load_in(
        self,
        process: EngineProcess,
        header: GgufHeader,
        where: OffloadPlan,
        computing: Measured,
        verdict: Verdict,
        cancel: Cancel,
        identity: str,
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
            type_k=where.type_k,
            type_v=where.type_v,
            threads=computing.threads.generation,
            prompt_threads=computing.threads.prompt,
            batch_costs=computing.batch_costs,
            extra_buffers=verdict is not Verdict.CRASHES,
            prove=prove,
            states=str(self._states.path) if self._states and identity else "",
            state_budget=self._states.budget if self._states and identity else 0,
            identity=identity,
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

    def _identity(self, header: GgufHeader, library: Path, about: Subject) -> str:
        """What a KV state has to agree with; "" where none are kept."""
        if self._states is None:
            return ""
        sha256 = self._proof.sha256 if self._proof else ""
        try:
            return identity(sha256, self._path, header.data_offset, library, about.key)
        except OSError:
            return ""

    def _info(
        self, header: GgufHeader, where: OffloadPlan, threads: Threads, loaded: Loaded, hello: Hello, machine: Hardware
    ) -> ModelInfo:
        return ModelInfo(
            name=self._name,
            architecture=header.architecture,
            sha256=self._proof.sha256 if self._proof else "",
            size=header.file_size,
            modified_ns=self._path.stat().st_mtime_ns,
            template_sha256=hashlib.sha256(header.chat_template.encode("utf-8", "surrogatepass")).hexdigest(),
            library=hello.library_version,
            n_ctx=loaded.n_ctx,
            n_layers=header.block_count,
            n_gpu_layers=where.n_gpu_layers,
            devices=tuple(device.name for device in machine.devices if device.kind is not DeviceKind.CPU),
            cache_type_k=where.type_k,
            cache_type_v=where.type_v,
            threads=threads.generation,
        )

    # Asking

    def _link(self) -> EngineLink:
        return self._engine().process

    def _lost(self) -> None:
        self._running = None

    def let_stay(
        self, files: tuple[tuple[str, str], ...], program: tuple[tuple[str, str], ...], cancel: Cancel
    ) -> None:
        """Let others in to the engine, which goes on without this process. Only where it was started behind a door.

        files, program: of the model and of the engine, as they were before it was loaded, each with its stamp.
        Raises EngineError kinds.
        """
        running = self._engine()
        card = protocol.Card(
            model=running.info,
            path=str(self._path.resolve()),
            n_ctx_train=running.loaded.n_ctx_train,
            memory=running.plan.total,
            placement=_placement(running.plan, running.header.block_count),
            notices=running.notices,
            files=files,
        )
        for _ in self._ask(protocol.Stay(card, program), cancel):
            pass
        running.process.leave()
        self._running = None

    def measure(
        self, request: protocol.Measure, cancel: Cancel
    ) -> Iterator[protocol.Evaluating | protocol.Measurement]:
        """Measure with the loaded model; ends with what was found, or with nothing more when cancelled."""
        for reply in self._ask(request, cancel):
            if isinstance(reply, (protocol.Evaluating, protocol.Measurement)):
                yield reply

    def unload(self) -> None:
        """As `Backend.unload`."""
        self.close()

    def close(self) -> None:
        """As `Backend.close`."""
        if self._running:
            self._running.process.close()
            self._running = None


def _placement(where: OffloadPlan, layers: int) -> str:
    if not where.n_gpu_layers:
        return CPU
    devices = ", ".join(placement.device for placement in where.placements if placement.device != CPU)
    return devices if where.n_gpu_layers > layers else f"{where.n_gpu_layers} of {layers + 1} layers on {devices}"
