"""The composition root: which parts a run is made of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phichat.chat.context_window import Turn
from phichat.chat.session import Session
from phichat.code_report import TrainingScope
from phichat.config.endpoints import parse_endpoint_model, resolve_api_key
from phichat.config.settings import Config
from phichat.engine.backend import Backend, CancelToken, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.daemon.backend import DaemonBackend
from phichat.engine.daemon.registry import DaemonAddress, DaemonRegistry
from phichat.engine.ipc.connection import EngineTimeouts
from phichat.errors import ModelNotInstalled, UsageError
from phichat.events import ModelReady, TurnFinished
from phichat.models.local.local_models import LocalModels, SelectedModel
from phichat.models.local.usage_log import GenerationSpeed, UsageLog
from phichat.paths import Paths
from phichat.types import Message, ModelInfo, SamplingParams

if TYPE_CHECKING:
    # What a question to an engine that is there has no use for.
    from phichat.engine.autotune.tuning_cache import TuningSource
    from phichat.engine.daemon.running_engines import RunningEngine
    from phichat.engine.ipc.process import EngineProcess
    from phichat.engine.kv_store import KvStore
    from phichat.engine.local import LocalBackend
    from phichat.engine.planner.fit_estimate import ProbedMachine, SpeedEstimate
    from phichat.engine.planner.offload_plan import OffloadPlan
    from phichat.engine.remote.backend import RemoteBackend
    from phichat.engine.remote.models import RemoteModel
    from phichat.gguf.header import GgufHeader
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.records import ConversationRecord, TurnRecord
    from phichat.transcript.store import TranscriptStore

RECORDER_LOCK_TIMEOUT_S = 2.0
"""How long an answer waits for another process that writes transcripts, before it goes on without."""

_MIN_TOKENS_FOR_SPEED = 16
"""Fewer say nothing about the speed of a model."""


@dataclass(frozen=True, slots=True)
class ResumedConversation:
    """A conversation to go on with. model: what answered last; path: where its file was, "" when not known."""

    conversation: ConversationRecord
    model: ModelInfo | None
    path: str

    def apply_to(self, config: Config, paths: Paths, *, model: str | None, system: str | None) -> Config:
        """config with the conversation's model and system prompt, where no others were asked for.

        Raises ModelNotInstalled when its model is not here.
        """
        branch = self.conversation.get_branch()
        if system is None and branch:
            config = replace(config, system=branch[-1].system)
        if model is None and self.model is not None:
            config = replace(
                config, model=resolve_recorded_model(self.model.name, (self.path, config.model), config, paths)
            )
        return config

    def to_history(self) -> list[Turn]:
        """The history: what got no answer at all is not in it."""
        return [Turn(turn.prompt, turn.text) for turn in self.conversation.get_branch() if turn.text]


def with_model_defaults(config: Config, paths: Paths) -> tuple[Config, TrainingScope | None]:
    """The settings with what the registry says of sampling the model of this run, where nobody has set it; and what
    the model's card vouches for in code, None where it says nothing.

    Raises ModelNotInstalled, UsageError and ConfigError.
    """
    if parse_endpoint_model(config.model, config.endpoints):
        return config, None
    spec = LocalModels.from_paths(paths).select_model(config.model).model.spec
    return (config.with_model_defaults(spec.sampling), spec.scope) if spec else (config, None)


def create_local_backend(config: Config, paths: Paths, preferences: TuningSource | None = None) -> LocalBackend:
    """The backend for the model of this run. preferences: instead of what was measured here.

    Raises ModelNotInstalled, UsageError and ConfigError.
    """
    library = LocalModels.from_paths(paths)
    return _build_local_backend(library.select_model(config.model), library, config, paths, preferences=preferences)


def create_session(
    config: Config, paths: Paths, resumed: ResumedConversation | None = None, recorder: Recorder | None = None
) -> Session:
    """A conversation, new or gone on with. Raises ModelNotInstalled, UsageError and ConfigError."""
    history = resumed.to_history() if resumed else ()
    return Session(
        create_chat_backend(config, paths),
        config.system,
        history,
        lambda: (recorder and recorder.conversation_id) or "",
    )


def create_chat_backend(config: Config, paths: Paths, *, explicit: bool = True) -> Backend:
    """The backend for the model of this run: of an endpoint, or a file here whose use and speed are remembered.

    is_choice: whether the user has named the model, so that it is the one to go on with. Raises
    ModelNotInstalled, UsageError and ConfigError.
    """
    if remote := create_remote_backend(config):
        return remote
    library = LocalModels.from_paths(paths)
    selected = library.select_model(config.model)
    backend = _create_shared_backend(selected, library, config, paths)
    return UsageLoggingBackend(backend, selected, library.usage_log, explicit=explicit and not selected.notice)


def open_kv_store(config: Config, paths: Paths) -> KvStore:
    """Where the KV states of conversations are kept."""
    from phichat.engine.kv_store import KvStore

    return KvStore(paths.kv_store, config.state_budget)


def create_remote_backend(config: Config) -> RemoteBackend | None:
    """The backend for the model of this run when it is an endpoint's. Nothing is sent yet. Raises ConfigError."""
    endpoint_model = parse_endpoint_model(config.model, config.endpoints)
    if endpoint_model is None:
        return None
    from phichat.engine.remote.backend import RemoteBackend

    return RemoteBackend(endpoint_model, resolve_api_key(endpoint_model.endpoint, os.environ), config.explicit)


def list_endpoint_models(config: Config, name: str, cancel: CancelToken) -> Sequence[RemoteModel]:
    """What the server of that endpoint has.

    Raises UsageError, ConfigError, ExtraNotInstalled and EndpointError kinds.
    """
    endpoint = config.endpoints.get(name)
    if endpoint is None:
        endpoints_hint = "the endpoints are " + ", ".join(config.endpoints)
        raise UsageError(
            f"There is no endpoint {name}",
            endpoints_hint if config.endpoints else f"Write [endpoints.{name}] with a base_url into config.toml",
        )
    from phichat.engine.remote.models import list_models

    return list_models(endpoint, resolve_api_key(endpoint, os.environ), cancel)


def resolve_recorded_model(name: str, candidates: Sequence[str | None], config: Config, paths: Paths) -> str:
    """What to ask for so that the model of that name answers: the name itself, or one of the places where it
    may be. Raises ModelNotInstalled."""
    if parse_endpoint_model(name, config.endpoints):
        return name
    library = LocalModels.from_paths(paths)
    for candidate in (name, *candidates):
        try:
            if candidate and library.select_model(candidate).model.name == name:
                return candidate
        except ModelNotInstalled:
            continue
    raise ModelNotInstalled(
        f"The model of this conversation, {name}, is not installed", "Install it, or go on with another one by -m"
    )


def create_replay_backend(
    turn: TurnRecord, recorded_path: str | None, config: Config, paths: Paths, overridden: Collection[str] = ()
) -> Backend:
    """What answered a turn, loaded as it was then, but for the options that are given now.

    place: where its file was. Raises ModelNotInstalled, UsageError and ConfigError.
    """
    model = turn.model
    assert model is not None
    recorded = {
        "ctx_size": turn.n_ctx or model.n_ctx or None,
        "threads": model.threads or None,
        "cache_type_k": model.cache_type_k or None,
        "cache_type_v": model.cache_type_v or None,
        "n_gpu_layers": model.n_gpu_layers if model.n_layers else None,
    }
    engine_options: dict[str, Any] = {
        name: value for name, value in recorded.items() if value is not None and name not in overridden
    }
    name = (
        config.model
        if "model" in overridden
        else resolve_recorded_model(model.name, (recorded_path, config.model), config, paths)
    )
    config = replace(config, model=name, engine=replace(config.engine, **engine_options))
    return create_remote_backend(config) or create_local_backend(config, paths)


def open_store(paths: Paths) -> TranscriptStore:
    """The transcripts. Raises TranscriptError."""
    from phichat.transcript.store import TranscriptStore

    return TranscriptStore.open_file(paths.logs)


def load_resumed_conversation(paths: Paths, prefix: str | None) -> ResumedConversation | None:
    """The conversation whose id begins so; for None the one last spoken in, None when there is none.

    Raises ConversationNotFound and TranscriptError.
    """
    transcripts = open_store(paths)
    try:
        conversation_id = transcripts.latest_id() if prefix is None else transcripts.find_id(prefix)
        if conversation_id is None:
            return None
        conversation = transcripts.get_conversation(conversation_id)
        model = next((turn.model for turn in reversed(conversation.get_branch()) if turn.model), None)
        return ResumedConversation(conversation, model, transcripts.get_model_path(model) if model else "")
    finally:
        transcripts.close()


def create_recorder(config: Config, paths: Paths, resumed: ResumedConversation | None = None) -> Recorder | None:
    """What keeps this run's turns; None when they are not to be kept."""
    if not config.log:
        return None
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.store import TranscriptStore

    def open_recorder_store() -> TranscriptStore:
        return TranscriptStore.open_file(paths.logs, busy_timeout_s=RECORDER_LOCK_TIMEOUT_S)

    if resumed is None:
        return Recorder(open_recorder_store)
    return Recorder(open_recorder_store, resumed.conversation.id, resumed.conversation.head)


def _build_local_backend(
    selected: SelectedModel,
    library: LocalModels,
    config: Config,
    paths: Paths,
    start_process: Callable[[EngineTimeouts, int], EngineProcess] | None = None,
    exclude: DaemonAddress | None = None,
    kv_store: KvStore | None = None,
    preferences: TuningSource | None = None,
) -> LocalBackend:
    """but: the engine that is to be loaded, of those that stay. preferences: instead of what was measured here."""
    from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
    from phichat.engine.autotune.tuning_cache import TuningCache
    from phichat.engine.local import LocalBackend
    from phichat.models.local.verification import LoadVerifier

    model = selected.model

    def free_memory() -> bool:
        from phichat.engine.daemon.running_engines import stop_idle

        registry = DaemonRegistry.for_cache(paths.cache)
        return registry is not None and stop_idle(registry, exclude)

    return LocalBackend(
        model.name,
        model.path,
        config.engine,
        ProbeCache(paths.cpu_buffer_probes),
        verifier=LoadVerifier(model, library.hash_cache),
        suggestions=_suggested_models(library),
        start_process=start_process,
        free_memory=free_memory,
        kv_store=kv_store,
        tuning_source=preferences or TuningCache(paths.tuning_cache),
    )


def _create_shared_backend(selected: SelectedModel, library: LocalModels, config: Config, paths: Paths) -> Backend:
    """One whose engine stays for the time that is set; a private one where that is none."""

    def create_private_backend(
        start_process: Callable[[EngineTimeouts, int], EngineProcess] | None = None,
    ) -> LocalBackend:
        return _build_local_backend(
            selected, library, config, paths, start_process, address, open_kv_store(config, paths)
        )

    registry = DaemonRegistry.for_cache(paths.cache) if config.keep_alive else None
    try:
        address = registry.make_address(selected.model.path, config.engine) if registry else None
    except OSError:
        address = None
    if address is None:
        return create_private_backend()

    def get_spin_count() -> int:
        from phichat.engine.autotune.tuning_cache import TuningCache, resolve_spin_count

        return resolve_spin_count(selected.model.path, TuningCache(paths.tuning_cache))

    return DaemonBackend(
        selected.model.name,
        selected.model.path,
        address,
        config.keep_alive,
        create_private_backend,
        EngineTimeouts(),
        get_spin_count,
    )


def background_engines_supported(config: Config, paths: Paths) -> bool:
    """Whether several backends of one model share an engine, which outlasts them; else each has one of its own."""
    return bool(config.keep_alive) and DaemonRegistry.for_cache(paths.cache) is not None


def list_background_engines(paths: Paths) -> list[RunningEngine]:
    """Those of this home that are there now."""
    from phichat.engine.daemon.running_engines import list_running

    registry = DaemonRegistry.for_cache(paths.cache)
    return list(list_running(registry)) if registry else []


def stop_engines(paths: Paths, model: str | None) -> list[RunningEngine]:
    """End those with that model in them, or all, and say which they were.

    model: as `-m` takes it, or the name that `ps` shows. Raises UsageError and ConfigError.
    """
    from phichat.engine.daemon.running_engines import stop_engine

    def matches(engine: RunningEngine) -> bool:
        return model is None or (
            engine.loaded_model is not None
            and (engine.loaded_model.model.name == model or engine.loaded_model.path == model_path)
        )

    model_path = ""
    if model is not None:
        with contextlib.suppress(ModelNotInstalled):
            model_path = str(LocalModels.from_paths(paths).resolve_model(model).path.resolve())
    matching = [one for one in list_background_engines(paths) if matches(one)]
    for one in matching:
        stop_engine(one.address)
    return matching


def record_speed(paths: Paths, backend: LocalBackend, tokens_per_second: float) -> None:
    """`bench` has measured the loaded model."""
    speed = GenerationSpeed(tokens_per_second, backend.engine.plan.n_gpu_layers, "bench")
    UsageLog(paths.usage_log).record_speed(backend.path, speed)


RemoteHeaderReader = Callable[[str], "GgufHeader"]
"""Reads the header of a model that is not here, by its spec. Raises PhichatError kinds."""


@dataclass(frozen=True, slots=True)
class FitReport:
    """How a model would run here. layers: repeating ones. smaller: names and sizes of models to advise instead."""

    name: str
    layer_count: int
    plan: OffloadPlan
    machine: ProbedMachine
    speed: SpeedEstimate
    suggestions: Sequence[tuple[str, int]]


def estimate_fit(
    config: Config, paths: Paths, cancel: CancelToken, read_remote_header: RemoteHeaderReader | None = None
) -> FitReport | None:
    """What the model of this run would take; None when cancelled.

    remote: for a model that is not installed; without it there is only what is. Raises ModelNotInstalled,
    ModelFileError, UsageError, ConfigError and EngineError.
    """
    from phichat.gguf.header import check_usable, read_model_header

    library = LocalModels.from_paths(paths)
    try:
        model = library.select_model(config.model).model
        name, header, speed = model.name, read_model_header(model.path), library.usage_log.last_speed(model.path)
        check_usable(header, model.path)
    except ModelNotInstalled:
        if read_remote_header is None or config.model is None:
            raise
        name, header, speed = config.model, read_remote_header(config.model), None
    return estimate_fit_from_header(name, header, config, paths, cancel, speed)


def estimate_fit_from_header(
    name: str,
    header: GgufHeader,
    config: Config,
    paths: Paths,
    cancel: CancelToken,
    speed: GenerationSpeed | None = None,
) -> FitReport | None:
    """What a model of that header would take; None when cancelled. speed: what was measured of it.

    Raises UsageError, ConfigError and EngineError.
    """
    from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
    from phichat.engine.planner.fit_estimate import SpeedEstimate, estimate_speed, plan_for_machine, probe_machine

    machine = probe_machine(cancel)
    if machine is None:
        return None
    plan = plan_for_machine(header, machine, config.engine, ProbeCache(paths.cpu_buffer_probes))
    if speed and speed.n_gpu_layers == plan.n_gpu_layers:
        speed_estimate = SpeedEstimate(
            speed.tokens_per_second, f"measured by `phichat {speed.measured_by}` on this machine"
        )
    else:
        speed_estimate = estimate_speed(header, machine.hardware, plan)
    return FitReport(
        name, header.block_count, plan, machine, speed_estimate, _suggested_models(LocalModels.from_paths(paths))
    )


def _suggested_models(library: LocalModels) -> list[tuple[str, int]]:
    return [(spec.name, spec.size) for spec in library.registry.values() if spec.size]


class UsageLoggingBackend:
    """A backend whose use and speed are remembered, and which says how its model was chosen."""

    def __init__(self, backend: Backend, selected: SelectedModel, usage_log: UsageLog, *, explicit: bool) -> None:
        self._backend, self._selected, self._usage_log = backend, selected, usage_log
        self._explicit, self._n_gpu_layers = explicit, 0

    @property
    def n_ctx(self) -> int:
        return self._backend.n_ctx

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """As `Backend.load`."""
        for event in self._backend.load(cancel):
            if isinstance(event, ModelReady):
                self._n_gpu_layers = event.model.n_gpu_layers
                self._usage_log.note(self._selected.model.path, is_explicit=self._explicit)
                if self._selected.notice:
                    event = replace(event, notices=(self._selected.notice, *event.notices))
            yield event

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        """As `Backend.count`."""
        return self._backend.count_tokens(messages, cancel)

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        """As `Backend.generate`."""
        for event in self._backend.generate(messages, params, cancel, conversation_id):
            if isinstance(event, TurnFinished) and event.usage.completion_tokens >= _MIN_TOKENS_FOR_SPEED:
                speed = GenerationSpeed(event.timings.tokens_per_second, self._n_gpu_layers, "ask")
                self._usage_log.record_speed(self._selected.model.path, speed)
            yield event

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """As `Backend.sample`."""
        return self._backend.generate_n(messages, params, n, cancel)

    def unload(self) -> None:
        """As `Backend.unload`."""
        self._backend.unload()

    def close(self) -> None:
        """As `Backend.close`."""
        self._backend.close()
