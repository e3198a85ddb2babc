"""Backend that loads a GGUF file in a child process."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Protocol

import msgspec

from phichat.config.settings import EngineOptions
from phichat.engine.autotune import tuning_cache as tuning
from phichat.engine.autotune.cpu_buffer_probe import ProbeCache, ProbeKey, ProbeOutcome, build_probe_key
from phichat.engine.backend import CancelToken, LoadEvent
from phichat.engine.ipc import protocol
from phichat.engine.ipc.connection import EngineConnection, EngineTimeouts
from phichat.engine.ipc.process import EngineProcess
from phichat.engine.ipc.protocol import EngineInfo, ErrorCode, ErrorReply, LoadModel, LoadProgress, ModelLoaded
from phichat.engine.kv_store import KvStore, compute_model_identity
from phichat.engine.planner.fit_estimate import BATCH_SIZE, plan_placement
from phichat.engine.planner.hardware import DeviceKind, Hardware, describe_unused_gpu, probe_from_engine
from phichat.engine.planner.memory_estimate import estimate_recurrent_state
from phichat.engine.planner.offload_plan import CPU, OffloadPlan, require_fit
from phichat.engine.process_backend import ProcessBackend, require_loaded
from phichat.errors import EngineCrashed, ModelFileError
from phichat.events import ModelLoading, ModelReady, ModelVerifying
from phichat.gguf.header import GgufHeader, check_usable, read_model_header
from phichat.storage.fingerprint import FileFingerprints
from phichat.types import ModelInfo

_MAX_SEQUENCES = 8
"""Conversations that a context holds at once. They share its cells, so that more of them cost no memory, except for
models whose layers keep a state of fixed size."""

_CPU_BUFFERS_CRASH_NOTICE = (
    "This llama.cpp build crashes with CPU-specific buffer types; they are now disabled. See `phichat doctor`."
)

StartProcess = Callable[[EngineTimeouts, int], EngineProcess]
"""Starts an engine process, given its timeouts and the spin count of its OpenMP barriers."""


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """Loaded model and its engine process. engine_info: of the library that the process uses."""

    process: EngineProcess
    header: GgufHeader
    plan: OffloadPlan
    threads: tuning.Threads
    load_reply: ModelLoaded
    engine_info: EngineInfo


class FileVerifier(Protocol):
    """Checks a model's file against its known hash."""

    @property
    def sha256(self) -> str:
        """The file's hash, "" where it is unknown."""

    def check(self, cancel: CancelToken) -> Iterator[float]:
        """Read the whole file if that is due, yielding the fraction done; a set cancel ends it early.
        Raises ModelFileError when its hash differs."""


class LocalBackend(ProcessBackend):
    """One GGUF file. Starts an engine process to load it, and a new one after every failure.

    verifier: has to accept the file before it is loaded. suggestions: names and sizes in bytes of models to advise
    when this one does not fit. free_memory: stops idle daemons, and returns whether it stopped any. kv_store: folder
    of saved KV caches, None to save and restore none.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        options: EngineOptions,
        probe_cache: ProbeCache,
        timeouts: EngineTimeouts | None = None,
        verifier: FileVerifier | None = None,
        suggestions: Sequence[tuple[str, int]] = (),
        start_process: StartProcess | None = None,
        free_memory: Callable[[], bool] | None = None,
        kv_store: KvStore | None = None,
        tuning_source: tuning.TuningSource | None = None,
    ) -> None:
        super().__init__(name, path)
        self._options, self._probe_cache, self._timeouts = options, probe_cache, timeouts or EngineTimeouts()
        self._start_process = start_process or (lambda timeouts, spin: EngineProcess(timeouts, spin_count=spin))
        self._tuning_source = tuning_source or tuning.StaticTuning()
        self._verifier, self._suggestions = verifier, suggestions
        self._free_memory, self._kv_store = free_memory, kv_store
        self._loaded_engine: LoadedEngine | None = None

    @property
    def n_ctx(self) -> int:
        return self.engine.load_reply.n_ctx

    @property
    def engine(self) -> LoadedEngine:
        """The loaded model. Raises EngineError when there is none."""
        return require_loaded(self._loaded_engine)

    @property
    def pid(self) -> int:
        """Process id of the engine process."""
        return self.engine.process.pid

    def _require_connection(self) -> EngineConnection:
        return self.engine.process

    def _on_disconnected(self) -> None:
        self._loaded_engine = None

    def _load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        if self._loaded_engine and self._loaded_engine.process.is_alive:
            return
        self.close()
        started_at = monotonic()
        yield ModelLoading(self._name, 0.0)
        # The process starts up while the header is read.
        process, is_loaded = self._start_engine(), False
        try:
            try:
                header = read_model_header(self.path)
            except ModelFileError:
                # A file that differs from its known hash has a better next step than one with a bad header.
                yield from self._verify_file(cancel)
                raise
            check_usable(header, self.path)
            if (engine_info := process.handshake(cancel)) is None:
                return
            hardware = probe_from_engine(engine_info)
            probe_key = build_probe_key(hardware.library_file, header)
            probed = self._probe_cache.lookup(probe_key)
            plan = plan_placement(header, hardware, self._options, probed)
            best_plan = plan_placement(header, hardware.with_free_memory(), self._options, probed)
            if self._free_memory and plan.quality != best_plan.quality and self._free_memory():
                # Only a new process sees the memory of the GPUs as it is now.
                process.kill()
                process = self._start_engine()
                if (engine_info := process.handshake(cancel)) is None:
                    return
                hardware = probe_from_engine(engine_info)
                plan = plan_placement(header, hardware, self._options, probed)
            require_fit(plan, self._name, self._suggestions)
            settings = self._compute_settings(hardware, header, plan)
            yield from self._verify_file(cancel)
            if cancel.is_set():
                return
            identity = self._compute_model_identity(header, hardware, probe_key)
            request = self._make_load_request(header, plan, settings, probed, identity)
            try:
                load_reply = yield from self._load_model(process, request, plan.total, cancel)
            except EngineCrashed as crash:
                if probed or not crash.is_cpu_fault:
                    raise
                # Only a load that works without this CPU's buffer types proves them to be the cause.
                request = msgspec.structs.replace(request, extra_buffers=False)
                process = self._start_engine()
                if process.handshake(cancel) is None:
                    return
                load_reply = yield from self._load_model(process, request, plan.total, cancel)
            if load_reply is None:
                return
            notices = [*plan.notices, *load_reply.notices, describe_unused_gpu(hardware)]
            if probed is None:
                outcome = ProbeOutcome.WORKS if request.extra_buffers else ProbeOutcome.CRASHES
                self._probe_cache.store(probe_key, outcome)
                notices.append(None if request.extra_buffers else _CPU_BUFFERS_CRASH_NOTICE)
            engine = LoadedEngine(process, header, plan, settings.threads, load_reply, engine_info)
            model_info = self._make_model_info(engine, hardware)
            self._loaded_engine, is_loaded = engine, True
            load_s, shown_notices = monotonic() - started_at, tuple(filter(None, notices))
            yield ModelReady(model_info, str(self.path), load_reply.n_ctx_train, load_s, shown_notices)
        finally:
            if not is_loaded:
                process.kill()

    def _verify_file(self, cancel: CancelToken) -> Iterator[ModelVerifying]:
        if self._verifier:
            for fraction in self._verifier.check(cancel):
                yield ModelVerifying(self._name, fraction)

    def _start_engine(self) -> EngineProcess:
        return self._start_process(self._timeouts, tuning.resolve_spin_count(self.path, self._tuning_source))

    def _compute_settings(self, hardware: Hardware, header: GgufHeader, plan: OffloadPlan) -> tuning.ComputeSettings:
        tuned = self._tuning_source.get_settings(hardware.library_file, header, offloaded=plan.n_gpu_layers > 0)
        count = self._options.threads or hardware.physical_cores
        threads = tuned.threads if tuned and not self._options.threads else tuning.Threads(count, count)
        costs = tuned.batch_costs if tuned else ()
        if self._options.draft == "lookup":
            costs = costs or tuning.ASSUMED_BATCH_COSTS
        elif self._options.draft == "off" or not tuned or threads != tuned.threads:
            costs = ()  # they hold for the threads that they were measured with
        return tuning.ComputeSettings(threads, costs)

    def _compute_model_identity(self, header: GgufHeader, hardware: Hardware, probe_key: ProbeKey) -> str:
        """Return the identity of the model's saved KV caches, "" to save and restore none."""
        offset, library_file = header.data_offset, hardware.library_file
        with contextlib.suppress(OSError):
            if self._kv_store:
                return compute_model_identity(self._sha256, self.path, offset, library_file, probe_key.key)
        return ""

    def _make_load_request(
        self,
        header: GgufHeader,
        plan: OffloadPlan,
        settings: tuning.ComputeSettings,
        probed: ProbeOutcome | None,
        identity: str,
    ) -> LoadModel:
        return LoadModel(
            path=str(self.path),
            n_ctx=plan.n_ctx,
            n_batch=min(BATCH_SIZE, plan.n_ctx),
            n_seq_max=1 if estimate_recurrent_state(header) else _MAX_SEQUENCES,
            n_gpu_layers=plan.n_gpu_layers,
            tensor_split=plan.tensor_split,
            type_k=plan.type_k,
            type_v=plan.type_v,
            threads=settings.threads.generation,
            prompt_threads=settings.threads.prompt,
            batch_costs=settings.batch_costs,
            extra_buffers=probed is not ProbeOutcome.CRASHES,
            warm_up=probed is None,
            kv_store_path=str(self._kv_store.path) if self._kv_store and identity else "",
            kv_store_budget=self._kv_store.budget if self._kv_store and identity else 0,
            model_identity=identity,
        )

    def _load_model(
        self, process: EngineProcess, request: LoadModel, model_bytes: int, cancel: CancelToken
    ) -> Generator[ModelLoading, None, ModelLoaded | None]:
        process.timeouts = self._timeouts.for_model(model_bytes)
        for reply in process.request(request, cancel):
            match reply:
                case LoadProgress():
                    yield ModelLoading(self._name, reply.fraction)
                case ModelLoaded():
                    return reply
                case ErrorReply() if reply.code is not ErrorCode.CANCELLED:
                    raise self._to_exception(reply)
        return None

    @property
    def _sha256(self) -> str:
        return self._verifier.sha256 if self._verifier else ""

    def _make_model_info(self, engine: LoadedEngine, hardware: Hardware) -> ModelInfo:
        header, plan = engine.header, engine.plan
        return ModelInfo(
            name=self._name,
            architecture=header.architecture,
            sha256=self._sha256,
            size=header.file_size,
            modified_ns=self.path.stat().st_mtime_ns,
            template_sha256=hashlib.sha256(header.chat_template.encode("utf-8", "surrogatepass")).hexdigest(),
            library=engine.engine_info.library_version,
            n_ctx=engine.load_reply.n_ctx,
            n_layers=header.block_count,
            n_gpu_layers=plan.n_gpu_layers,
            devices=tuple(device.name for device in hardware.devices if device.kind is not DeviceKind.CPU),
            cache_type_k=plan.type_k,
            cache_type_v=plan.type_v,
            threads=engine.threads.generation,
        )

    def detach(
        self, ready: ModelReady, files: FileFingerprints, program_files: FileFingerprints, cancel: CancelToken
    ) -> None:
        """Let the engine process, started with a daemon socket, accept clients and live on without this process.

        ready: event of its load. files, program_files: of the model and of the program, with their fingerprints from
        before the load. Raises EngineError kinds.
        """
        engine = self.engine
        loaded_model = protocol.LoadedModelInfo(
            model=ready.model,
            path=str(self.path.resolve()),
            n_ctx_train=ready.n_ctx_train,
            memory=engine.plan.total,
            placement=_format_placement(engine.plan, engine.header.block_count),
            notices=tuple(notice for notice in ready.notices if notice != _CPU_BUFFERS_CRASH_NOTICE),
            fingerprints=files,
        )
        for _ in self._request(protocol.Detach(loaded_model, program_files), cancel):
            pass
        engine.process.detach()
        self._loaded_engine = None

    def run_benchmark(self, request: protocol.BenchmarkRequest, cancel: CancelToken) -> Iterator[protocol.EngineReply]:
        """Measure with the loaded model; yields the measurement last, or none when cancelled."""
        return self._request(request, cancel)

    def close(self) -> None:
        if self._loaded_engine:
            self._loaded_engine.process.close()
            self._loaded_engine = None

    unload = close


def _format_placement(plan: OffloadPlan, layers: int) -> str:
    if not plan.n_gpu_layers:
        return CPU
    devices = ", ".join(placement.device for placement in plan.placements if placement.device != CPU)
    return devices if plan.n_gpu_layers > layers else f"{plan.n_gpu_layers} of {layers + 1} layers on {devices}"
