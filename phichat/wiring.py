"""The composition root: which parts a run is made of."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from phichat.chat.context import Turn
from phichat.chat.session import Session
from phichat.code_report import CodeScope
from phichat.config import Config
from phichat.endpoints import key_of, served
from phichat.engine.backend import Backend, Cancel, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.link import Deadlines
from phichat.engine.resident.address import Address, Engines
from phichat.engine.resident.backend import ResidentBackend
from phichat.errors import ModelNotInstalled, UsageError
from phichat.events import ModelReady, TurnFinished
from phichat.messages import GenerationParams, Message, ModelInfo
from phichat.models.library import Choice, Library
from phichat.models.used import Speed, Used
from phichat.paths import Paths

if TYPE_CHECKING:
    # What a question to an engine that is there has no use for.
    from phichat.engine.fitting import Estimate, Machine
    from phichat.engine.local import LocalBackend
    from phichat.engine.offload import OffloadPlan
    from phichat.engine.process import EngineProcess
    from phichat.engine.remote.backend import RemoteBackend
    from phichat.engine.remote.served import ServedModel
    from phichat.engine.resident.listing import Resident
    from phichat.engine.states import StateFolder
    from phichat.engine.tuning import Preferences
    from phichat.gguf_header import GgufHeader
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.records import ConversationRecord, TurnRecord
    from phichat.transcript.store import Store

RECORDING_PATIENCE_S = 2.0
"""How long an answer waits for another process that writes transcripts, before it goes on without."""

_TELLING_TOKENS = 16
"""Fewer say nothing about the speed of a model."""


@dataclass(frozen=True, slots=True)
class Past:
    """A conversation to go on with. model: what answered last; path: where its file was, "" when not known."""

    conversation: ConversationRecord
    model: ModelInfo | None
    path: str

    def carried(self, config: Config, paths: Paths, *, model: str | None, system: str | None) -> Config:
        """config with the conversation's model and system prompt, where no others were asked for.

        Raises ModelNotInstalled when its model is not here.
        """
        branch = self.conversation.branch()
        if system is None and branch:
            config = replace(config, system=branch[-1].system)
        if model is None and self.model is not None:
            config = replace(config, model=leading_to(self.model.name, (self.path, config.model), config, paths))
        return config

    def turns(self) -> list[Turn]:
        """The history: what got no answer at all is not in it."""
        return [Turn(turn.prompt, turn.text) for turn in self.conversation.branch() if turn.text]


def suited(config: Config, paths: Paths) -> tuple[Config, CodeScope | None]:
    """The settings with what the registry says of sampling the model of this run, where nobody has set it; and what
    the model's card vouches for in code, None where it says nothing.

    Raises ModelNotInstalled, UsageError and ConfigError.
    """
    if served(config.model, config.endpoints):
        return config, None
    spec = Library.open(paths).choose(config.model).model.spec
    return (config.suited(spec.sampling), spec.scope) if spec else (config, None)


def local_backend(config: Config, paths: Paths, preferences: Preferences | None = None) -> LocalBackend:
    """The backend for the model of this run. preferences: instead of what was measured here.

    Raises ModelNotInstalled, UsageError and ConfigError.
    """
    library = Library.open(paths)
    return _backend_of(library.choose(config.model), library, config, paths, preferences=preferences)


def session(config: Config, paths: Paths, past: Past | None = None, keeper: Recorder | None = None) -> Session:
    """A conversation, new or gone on with. Raises ModelNotInstalled, UsageError and ConfigError."""
    history = past.turns() if past else ()
    return Session(chat_backend(config, paths), config.system, history, lambda: (keeper and keeper.conversation) or "")


def chat_backend(config: Config, paths: Paths, *, is_choice: bool = True) -> Backend:
    """The backend for the model of this run: of an endpoint, or a file here whose use and speed are remembered.

    is_choice: whether the user has named the model, so that it is the one to go on with. Raises
    ModelNotInstalled, UsageError and ConfigError.
    """
    if remote := remote_backend(config):
        return remote
    library = Library.open(paths)
    choice = library.choose(config.model)
    backend = _staying(choice, library, config, paths)
    return _Remembering(backend, choice, library.used, is_choice=is_choice and not choice.notice)


def states_folder(config: Config, paths: Paths) -> StateFolder:
    """Where the KV states of conversations are kept."""
    from phichat.engine.states import StateFolder

    return StateFolder(paths.states, config.state_budget)


def remote_backend(config: Config) -> RemoteBackend | None:
    """The backend for the model of this run when it is an endpoint's. Nothing is sent yet. Raises ConfigError."""
    found = served(config.model, config.endpoints)
    if found is None:
        return None
    from phichat.engine.remote.backend import RemoteBackend

    return RemoteBackend(found, key_of(found.endpoint, os.environ), config.given)


def endpoint_models(config: Config, name: str, cancel: Cancel) -> Sequence[ServedModel]:
    """What the server of that endpoint has.

    Raises UsageError, ConfigError, ExtraNotInstalled and EndpointError kinds.
    """
    endpoint = config.endpoints.get(name)
    if endpoint is None:
        known = "the endpoints are " + ", ".join(config.endpoints)
        raise UsageError(
            f"There is no endpoint {name}",
            known if config.endpoints else f"write [endpoints.{name}] with a base_url into config.toml",
        )
    from phichat.engine.remote.served import served_models

    return served_models(endpoint, key_of(endpoint, os.environ), cancel)


def leading_to(name: str, places: Sequence[str | None], config: Config, paths: Paths) -> str:
    """What to ask for so that the model of that name answers: the name itself, or one of the places where it
    may be. Raises ModelNotInstalled."""
    if served(name, config.endpoints):
        return name
    library = Library.open(paths)
    for wanted in (name, *places):
        try:
            if wanted and library.choose(wanted).model.name == name:
                return wanted
        except ModelNotInstalled:
            continue
    raise ModelNotInstalled(
        f"The model of this conversation, {name}, is not installed", "install it, or go on with another one by -m"
    )


def recorded_backend(
    turn: TurnRecord, place: str | None, config: Config, paths: Paths, given: Collection[str] = ()
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
    kept: dict[str, Any] = {name: value for name, value in recorded.items() if value is not None and name not in given}
    name = config.model if "model" in given else leading_to(model.name, (place, config.model), config, paths)
    config = replace(config, model=name, engine=replace(config.engine, **kept))
    return remote_backend(config) or local_backend(config, paths)


def store(paths: Paths) -> Store:
    """The transcripts. Raises TranscriptError."""
    from phichat.transcript.store import Store

    return Store.open(paths.logs)


def past(paths: Paths, prefix: str | None) -> Past | None:
    """The conversation whose id begins so; for None the one last spoken in, None when there is none.

    Raises ConversationNotFound and TranscriptError.
    """
    kept = store(paths)
    try:
        found = kept.latest() if prefix is None else kept.find(prefix)
        if found is None:
            return None
        conversation = kept.conversation(found)
        model = next((turn.model for turn in reversed(conversation.branch()) if turn.model), None)
        return Past(conversation, model, kept.path_of(model) if model else "")
    finally:
        kept.close()


def recorder(config: Config, paths: Paths, past: Past | None = None) -> Recorder | None:
    """What keeps this run's turns; None when they are not to be kept."""
    if not config.log:
        return None
    from phichat.transcript.recorder import Recorder
    from phichat.transcript.store import Store

    def opened() -> Store:
        return Store.open(paths.logs, patience_s=RECORDING_PATIENCE_S)

    if past is None:
        return Recorder(opened)
    return Recorder(opened, past.conversation.id, past.conversation.head)


def _backend_of(
    choice: Choice,
    library: Library,
    config: Config,
    paths: Paths,
    start: Callable[[Deadlines, int], EngineProcess] | None = None,
    but: Address | None = None,
    states: StateFolder | None = None,
    preferences: Preferences | None = None,
) -> LocalBackend:
    """but: the engine that is to be loaded, of those that stay. preferences: instead of what was measured here."""
    from phichat.engine.local import LocalBackend
    from phichat.engine.tuning import Tunings
    from phichat.engine.verdicts import Verdicts
    from phichat.models.checking import LoadCheck

    model = choice.model

    def room() -> bool:
        from phichat.engine.resident.listing import make_room

        engines = Engines.of(paths.cache)
        return engines is not None and make_room(engines, but)

    return LocalBackend(
        model.name,
        model.path,
        config.engine,
        Verdicts(paths.engine_verdicts),
        proof=LoadCheck(model, library.proofs),
        smaller=_smaller(library),
        start=start,
        make_room=room,
        states=states,
        preferences=preferences or Tunings(paths.engine_tunings),
    )


def _staying(choice: Choice, library: Library, config: Config, paths: Paths) -> Backend:
    """One whose engine stays for the time that is set; a private one where that is none."""

    def private(start: Callable[[Deadlines, int], EngineProcess] | None = None) -> LocalBackend:
        return _backend_of(choice, library, config, paths, start, address, states_folder(config, paths))

    engines = Engines.of(paths.cache) if config.keep_alive else None
    try:
        address = engines.address(choice.model.path, config.engine) if engines else None
    except OSError:
        address = None
    if address is None:
        return private()

    def spin_count() -> int:
        from phichat.engine.tuning import Tunings, spin_count_for

        return spin_count_for(choice.model.path, Tunings(paths.engine_tunings))

    return ResidentBackend(
        choice.model.name, choice.model.path, address, config.keep_alive, private, Deadlines(), spin_count
    )


def engines_can_stay(config: Config, paths: Paths) -> bool:
    """Whether several backends of one model share an engine, which outlasts them; else each has one of its own."""
    return bool(config.keep_alive) and Engines.of(paths.cache) is not None


def engines_that_stay(paths: Paths) -> list[Resident]:
    """Those of this home that are there now."""
    from phichat.engine.resident.listing import residents

    engines = Engines.of(paths.cache)
    return list(residents(engines)) if engines else []


def stop_engines(paths: Paths, model: str | None) -> list[Resident]:
    """End those with that model in them, or all, and say which they were.

    model: as `-m` takes it, or the name that `ps` shows. Raises UsageError and ConfigError.
    """
    from phichat.engine.resident.listing import stop

    def is_meant(one: Resident) -> bool:
        return model is None or (one.card is not None and (one.card.model.name == model or one.card.path == wanted))

    wanted = ""
    if model is not None:
        with contextlib.suppress(ModelNotInstalled):
            wanted = str(Library.open(paths).resolve(model).path.resolve())
    meant = [one for one in engines_that_stay(paths) if is_meant(one)]
    for one in meant:
        stop(one.address)
    return meant


def remember_speed(paths: Paths, backend: LocalBackend, tokens_per_second: float) -> None:
    """`bench` has measured the loaded model."""
    speed = Speed(tokens_per_second, backend.plan.n_gpu_layers, "bench")
    Used(paths.model_uses).note_speed(backend.path, speed)


RemoteHeader = Callable[[str], "GgufHeader"]
"""Reads the header of a model that is not here, by its spec. Raises PhichatError kinds."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """How a model would run here. layers: repeating ones. smaller: names and sizes of models to advise instead."""

    name: str
    layers: int
    plan: OffloadPlan
    machine: Machine
    speed: Estimate
    smaller: Sequence[tuple[str, int]]


def fit_of(config: Config, paths: Paths, cancel: Cancel, remote: RemoteHeader | None = None) -> Fitted | None:
    """What the model of this run would take; None when cancelled.

    remote: for a model that is not installed; without it there is only what is. Raises ModelNotInstalled,
    ModelFileError, UsageError, ConfigError and EngineError.
    """
    from phichat.gguf_header import check_usable, read_model

    library = Library.open(paths)
    try:
        model = library.choose(config.model).model
        name, header, speed = model.name, read_model(model.path), library.used.speed(model.path)
        check_usable(header, model.path)
    except ModelNotInstalled:
        if remote is None or config.model is None:
            raise
        name, header, speed = config.model, remote(config.model), None
    return fit_header(name, header, config, paths, cancel, speed)


def fit_header(
    name: str, header: GgufHeader, config: Config, paths: Paths, cancel: Cancel, speed: Speed | None = None
) -> Fitted | None:
    """What a model of that header would take; None when cancelled. speed: what was measured of it.

    Raises UsageError, ConfigError and EngineError.
    """
    from phichat.engine.fitting import Estimate, estimate, find_machine, fit
    from phichat.engine.verdicts import Verdicts

    machine = find_machine(cancel)
    if machine is None:
        return None
    where = fit(header, machine, config.engine, Verdicts(paths.engine_verdicts))
    if speed and speed.n_gpu_layers == where.n_gpu_layers:
        estimated = Estimate(speed.tokens_per_second, f"measured by `phichat {speed.measured_by}` on this machine")
    else:
        estimated = estimate(header, machine.hardware, where)
    return Fitted(name, header.block_count, where, machine, estimated, _smaller(Library.open(paths)))


def _smaller(library: Library) -> list[tuple[str, int]]:
    return [(spec.name, spec.size) for spec in library.registry.values() if spec.size]


class _Remembering:
    """A backend whose use and speed are remembered, and which says how its model was chosen."""

    def __init__(self, backend: Backend, choice: Choice, used: Used, *, is_choice: bool) -> None:
        self._backend, self._choice, self._used = backend, choice, used
        self._is_choice, self._n_gpu_layers = is_choice, 0

    @property
    def n_ctx(self) -> int:
        return self._backend.n_ctx

    def load(self, cancel: Cancel) -> Iterator[LoadEvent]:
        """As `Backend.load`."""
        for event in self._backend.load(cancel):
            if isinstance(event, ModelReady):
                self._n_gpu_layers = event.model.n_gpu_layers
                self._used.note(self._choice.model.path, chosen=self._is_choice)
                if self._choice.notice:
                    event = replace(event, notices=(self._choice.notice, *event.notices))
            yield event

    def count(self, messages: Sequence[Message], cancel: Cancel) -> int:
        """As `Backend.count`."""
        return self._backend.count(messages, cancel)

    def generate(
        self, messages: Sequence[Message], params: GenerationParams, cancel: Cancel, owner: str = ""
    ) -> Iterator[GenerationEvent]:
        """As `Backend.generate`."""
        for event in self._backend.generate(messages, params, cancel, owner):
            if isinstance(event, TurnFinished) and event.usage.completion_tokens >= _TELLING_TOKENS:
                speed = Speed(event.timings.tokens_per_second, self._n_gpu_layers, "ask")
                self._used.note_speed(self._choice.model.path, speed)
            yield event

    def sample(
        self, messages: Sequence[Message], params: GenerationParams, number: int, cancel: Cancel
    ) -> Iterator[SampleEvent]:
        """As `Backend.sample`."""
        return self._backend.sample(messages, params, number, cancel)

    def unload(self) -> None:
        """As `Backend.unload`."""
        self._backend.unload()

    def close(self) -> None:
        """As `Backend.close`."""
        self._backend.close()
