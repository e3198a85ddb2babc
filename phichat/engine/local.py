"""The backend that runs a GGUF file in an engine process of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

from phichat.config.settings import EngineOptions
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeKey, ProbeOutcome, build_probe_key
from phichat.engine.autotune.tuning_cache import (
    ASSUMED_BATCH_COSTS,
    ComputeSettings,
    StaticTuning,
    Threads,
    TuningSource,
    resolve_spin_count,
)
from phichat.engine.backend import CancelToken, LoadEvent
from phichat.engine.ipc import protocol
from phichat.engine.ipc.connection import EngineConnection, EngineTimeouts
from phichat.engine.ipc.process import WORKER_COMMAND, EngineProcess
from phichat.engine.ipc.protocol import EngineInfo, ErrorCode, ErrorReply, LoadModel, LoadProgress, ModelLoaded
from phichat.engine.kv_store import KvStore, compute_model_identity
from phichat.engine.planner.fit_estimate import BATCH_SIZE, plan_placement, would_improve_with_free_memory
from phichat.engine.planner.hardware import DeviceKind, Hardware, describe_unused_gpu, probe_from_engine
from phichat.engine.planner.memory_estimate import estimate_recurrent_state
from phichat.engine.planner.offload_plan import CPU, OffloadPlan, require_fit
from phichat.engine.process_backend import ProcessBackend
from phichat.errors import EngineCrashed, EngineError, ModelFileError
from phichat.events import ModelLoading, ModelReady, ModelVerifying
from phichat.gguf.header import GgufHeader, check_usable, read_model_header
from phichat.storage.fingerprint import FileFingerprints
from phichat.types import ModelInfo

_MAX_SEQUENCES = 8
"""Conversations that a context holds at once. They share its cells, so that more cost no memory, but for models
whose layers keep a state of fixed size."""


_CPU_BUFFERS_CRASH_NOTICE = (
    "This build of llama.cpp crashes in this CPU's own buffer types and does without them from now on; "
    "see `phichat doctor`."
)


@dataclass(frozen=True, slots=True)
class _LoadedEngine:
    """A loaded model; everything about it that does not change."""

    process: EngineProcess
    header: GgufHeader
    plan: OffloadPlan
    threads: Threads
    load_reply: ModelLoaded
    engine_info: EngineInfo
    model_info: ModelInfo
    notices: tuple[str, ...]


class FileVerifier(Protocol):
    """Knows whether a model's file is what it should be."""

    @property
    def sha256(self) -> str:
        """Of the file, "" where nobody has read it whole."""
        ...

    def check(self, cancel: CancelToken) -> Iterator[float]:
        """Read the file whole if that is due, yielding the fraction done.

        Raises ModelFileError when it is not what it should be; a set cancel ends it early.
        """
        ...


class LocalBackend(ProcessBackend):
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
        probe_cache: ProbeCache,
        timeouts: EngineTimeouts | None = None,
        command: Sequence[str] = WORKER_COMMAND,
        verifier: FileVerifier | None = None,
        suggestions: Sequence[tuple[str, int]] = (),
        start_process: Callable[[EngineTimeouts, int], EngineProcess] | None = None,
        free_memory: Callable[[], bool] | None = None,
        kv_store: KvStore | None = None,
        tuning_source: TuningSource | None = None,
    ) -> None:
        super().__init__(name, path)
        self._options = options
        self._probe_cache, self._timeouts = probe_cache, timeouts or EngineTimeouts()
        self._start_process = start_process or (
            lambda deadlines, spin: EngineProcess(deadlines, command, spin_count=spin)
        )
        self._tuning_source = tuning_source or StaticTuning()
        self._free_memory = free_memory
        self._verifier, self._suggestions, self._kv_store = verifier, suggestions, kv_store
        self._loaded_engine: _LoadedEngine | None = None

    @property
    def n_ctx(self) -> int:
        return self._require_engine().load_reply.n_ctx

    @property
    def header(self) -> GgufHeader:
        """The header of the loaded file."""
        return self._require_engine().header

    @property
    def plan(self) -> OffloadPlan:
        """Where the loaded model's parts are."""
        return self._require_engine().plan

    @property
    def pid(self) -> int:
        """The engine's process id."""
        return self._require_engine().process.pid

    @property
    def threads(self) -> Threads:
        """What the engine computes with."""
        return self._require_engine().threads

    @property
    def library_file(self) -> Path:
        """The shared library that the engine has loaded."""
        return Path(self._require_engine().engine_info.library_file)

    def _require_engine(self) -> _LoadedEngine:
        if self._loaded_engine is None:
            raise EngineError("No model is loaded", "Load one first")
        return self._loaded_engine

    # Loading

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """As `Backend.load`. Raises ModelFileError, ModelDoesNotFit and EngineError kinds."""
        if self._loaded_engine and self._loaded_engine.process.is_alive:
            return
        self.close()
        started_at = monotonic()
        yield ModelLoading(self._name, 0.0)
        # The process starts up while the header is read.
        process, is_loaded = self._start_engine(), False
        try:
            try:
                header = read_model_header(self._path)
            except ModelFileError:
                # Of a file that is not what it was, the proof can say what to do.
                yield from self._verify_file(cancel)
                raise
            check_usable(header, self._path)
            engine_info = process.handshake(cancel)
            if engine_info is None:
                return
            hardware = probe_from_engine(engine_info)
            probe_key = build_probe_key(Path(engine_info.library_file), header)
            cached_outcome = self._probe_cache.lookup(probe_key)
            plan = plan_placement(header, hardware, self._options, cached_outcome)
            if (
                self._free_memory
                and would_improve_with_free_memory(plan, header, hardware, self._options, cached_outcome)
                and self._free_memory()
            ):
                process.kill()
                process = self._start_engine()
                engine_info = process.handshake(cancel)
                if engine_info is None:
                    return
                hardware = probe_from_engine(engine_info)
                plan = plan_placement(header, hardware, self._options, cached_outcome)
            require_fit(plan, self._name, self._suggestions)
            compute_settings = self._compute_settings(engine_info, hardware, header, plan)
            yield from self._verify_file(cancel)
            if cancel.is_set():
                return
            outcome = cached_outcome or ProbeOutcome.WORKS
            model_identity = self._compute_identity(header, Path(engine_info.library_file), probe_key)
            while True:
                try:
                    load_reply = yield from self._load_model(
                        process,
                        header,
                        plan,
                        compute_settings,
                        outcome,
                        cancel,
                        model_identity,
                        warm_up=cached_outcome is None,
                    )
                    break
                except EngineCrashed as crash:
                    if cached_outcome or outcome is ProbeOutcome.CRASHES or not crash.is_cpu_fault:
                        raise
                    # Was it this CPU's buffer types? Only a load that works without them tells.
                    outcome, process = ProbeOutcome.CRASHES, self._start_engine()
                    if process.handshake(cancel) is None:
                        return
            if load_reply is None:
                return
            if cached_outcome is None:
                self._probe_cache.store(probe_key, outcome)
            notices = [*plan.notices, *load_reply.notices]
            if gpu_notice := describe_unused_gpu(hardware):
                notices.append(gpu_notice)
            info = self._build_model_info(header, plan, compute_settings.threads, load_reply, engine_info, hardware)
            self._loaded_engine = _LoadedEngine(
                process, header, plan, compute_settings.threads, load_reply, engine_info, info, tuple(notices)
            )
            is_loaded = True
            self._unreported_load_s = monotonic() - started_at
            if cached_outcome is None and outcome is ProbeOutcome.CRASHES:
                notices.append(_CPU_BUFFERS_CRASH_NOTICE)
            yield ModelReady(info, str(self._path), load_reply.n_ctx_train, self._unreported_load_s, tuple(notices))
        finally:
            if not is_loaded:
                process.kill()

    def _verify_file(self, cancel: CancelToken) -> Iterator[ModelVerifying]:
        """Read the file whole if that is due. Raises ModelFileError when it is not what it should be."""
        if self._verifier:
            for fraction in self._verifier.check(cancel):
                yield ModelVerifying(self._name, fraction)

    def _start_engine(self) -> EngineProcess:
        return self._start_process(self._timeouts, resolve_spin_count(self._path, self._tuning_source))

    def _compute_settings(
        self, engine_info: EngineInfo, hardware: Hardware, header: GgufHeader, plan: OffloadPlan
    ) -> ComputeSettings:
        offloaded, explicit_threads = plan.n_gpu_layers > 0, self._options.threads
        tuned = self._tuning_source.get_settings(Path(engine_info.library_file), header, offloaded=offloaded)
        default_threads = explicit_threads or hardware.physical_cores
        threads = tuned.threads if tuned and not explicit_threads else Threads(default_threads, default_threads)
        match self._options.draft:
            case "off":
                return ComputeSettings(threads)
            case "auto":
                # Costs hold for the threads that they were measured with.
                return ComputeSettings(threads, tuned.batch_costs if tuned and threads == tuned.threads else ())
            case "lookup":
                return ComputeSettings(threads, (tuned and tuned.batch_costs) or ASSUMED_BATCH_COSTS)

    def _load_model(
        self,
        process: EngineProcess,
        header: GgufHeader,
        plan: OffloadPlan,
        compute_settings: ComputeSettings,
        outcome: ProbeOutcome,
        cancel: CancelToken,
        model_identity: str,
        *,
        warm_up: bool,
    ) -> Generator[ModelLoading, None, ModelLoaded | None]:
        request = LoadModel(
            path=str(self._path),
            n_ctx=plan.n_ctx,
            n_batch=min(BATCH_SIZE, plan.n_ctx),
            n_seq_max=1 if estimate_recurrent_state(header) else _MAX_SEQUENCES,
            n_gpu_layers=plan.n_gpu_layers,
            tensor_split=plan.tensor_split,
            type_k=plan.type_k,
            type_v=plan.type_v,
            threads=compute_settings.threads.generation,
            prompt_threads=compute_settings.threads.prompt,
            batch_costs=compute_settings.batch_costs,
            extra_buffers=outcome is not ProbeOutcome.CRASHES,
            warm_up=warm_up,
            kv_store_path=str(self._kv_store.path) if self._kv_store and model_identity else "",
            kv_store_budget=self._kv_store.budget if self._kv_store and model_identity else 0,
            model_identity=model_identity,
        )
        process.timeouts = self._timeouts.for_model(plan.total)
        for reply in process.request(request, cancel):
            match reply:
                case LoadProgress():
                    yield ModelLoading(self._name, reply.fraction)
                case ModelLoaded():
                    return reply
                case ErrorReply(code=ErrorCode.CANCELLED):
                    return None
                case ErrorReply():
                    raise self._to_exception(reply)
                case _:
                    pass
        return None

    def _compute_identity(self, header: GgufHeader, library_file: Path, probe_key: ProbeKey) -> str:
        """What a KV state has to agree with; "" where none are kept."""
        if self._kv_store is None:
            return ""
        sha256 = self._verifier.sha256 if self._verifier else ""
        try:
            return compute_model_identity(sha256, self._path, header.data_offset, library_file, probe_key.key)
        except OSError:
            return ""

    def _build_model_info(
        self,
        header: GgufHeader,
        plan: OffloadPlan,
        threads: Threads,
        load_reply: ModelLoaded,
        engine_info: EngineInfo,
        hardware: Hardware,
    ) -> ModelInfo:
        return ModelInfo(
            name=self._name,
            architecture=header.architecture,
            sha256=self._verifier.sha256 if self._verifier else "",
            size=header.file_size,
            modified_ns=self._path.stat().st_mtime_ns,
            template_sha256=hashlib.sha256(header.chat_template.encode("utf-8", "surrogatepass")).hexdigest(),
            library=engine_info.library_version,
            n_ctx=load_reply.n_ctx,
            n_layers=header.block_count,
            n_gpu_layers=plan.n_gpu_layers,
            devices=tuple(device.name for device in hardware.devices if device.kind is not DeviceKind.CPU),
            cache_type_k=plan.type_k,
            cache_type_v=plan.type_v,
            threads=threads.generation,
        )

    # Asking

    def _require_connection(self) -> EngineConnection:
        return self._require_engine().process

    def _on_disconnected(self) -> None:
        self._loaded_engine = None

    def detach(
        self,
        model_fingerprints: FileFingerprints,
        program_fingerprints: FileFingerprints,
        cancel: CancelToken,
    ) -> None:
        """Let others in to the engine, which goes on without this process. Only where it was started behind a door.

        files, program: of the model and of the engine, as they were before it was loaded, each with its stamp.
        Raises EngineError kinds.
        """
        engine = self._require_engine()
        loaded_model = protocol.LoadedModelInfo(
            model=engine.model_info,
            path=str(self._path.resolve()),
            n_ctx_train=engine.load_reply.n_ctx_train,
            memory=engine.plan.total,
            placement=_format_placement(engine.plan, engine.header.block_count),
            notices=engine.notices,
            fingerprints=model_fingerprints,
        )
        for _ in self._request(protocol.Detach(loaded_model, program_fingerprints), cancel):
            pass
        engine.process.detach()
        self._loaded_engine = None

    def run_benchmark(
        self, request: protocol.BenchmarkRequest, cancel: CancelToken
    ) -> Iterator[protocol.PrefillProgress | protocol.BenchmarkReply]:
        """Measure with the loaded model; ends with what was found, or with nothing more when cancelled."""
        for reply in self._request(request, cancel):
            if isinstance(reply, (protocol.PrefillProgress, protocol.BenchmarkReply)):
                yield reply

    def unload(self) -> None:
        """As `Backend.unload`."""
        self.close()

    def close(self) -> None:
        """As `Backend.close`."""
        if self._loaded_engine:
            self._loaded_engine.process.close()
            self._loaded_engine = None


def _format_placement(plan: OffloadPlan, layers: int) -> str:
    if not plan.n_gpu_layers:
        return CPU
    devices = ", ".join(placement.device for placement in plan.placements if placement.device != CPU)
    return devices if plan.n_gpu_layers > layers else f"{plan.n_gpu_layers} of {layers + 1} layers on {devices}"
