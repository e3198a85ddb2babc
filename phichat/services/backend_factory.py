"""Creates the backend of the model that the settings name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from phichat.code_report import TrainingScope
from phichat.config.endpoints import parse_endpoint_model, resolve_api_key
from phichat.config.settings import Config
from phichat.engine.backend import Backend, CancelToken
from phichat.engine.daemon.backend import DaemonBackend
from phichat.engine.daemon.registry import DaemonAddress, DaemonRegistry
from phichat.engine.ipc.connection import EngineTimeouts
from phichat.errors import ModelNotInstalled, UsageError
from phichat.models.local.local_models import LocalModels, SelectedModel
from phichat.services.app_context import AppContext
from phichat.services.usage_logging_backend import UsageLoggingBackend

if TYPE_CHECKING:
    # Imported late below: a prompt to a running engine needs none of it.
    from phichat.engine.autotune.tuning_cache import TuningSource
    from phichat.engine.ipc.process import EngineProcess
    from phichat.engine.local import LocalBackend
    from phichat.engine.remote.backend import RemoteBackend
    from phichat.engine.remote.client import RemoteModel
    from phichat.transcript.records import TurnRecord

ProcessStarter = Callable[[EngineTimeouts, int], "EngineProcess"]


class BackendFactory:
    """Creates backends for the model of the context.

    Methods that create a backend raise ModelNotInstalled, UsageError and ConfigError.
    """

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._config, self._paths = context.config, context.paths

    def create_chat_backend(self, *, explicit: bool = True) -> Backend:
        """Return the backend of an endpoint's model, or of a local one whose use and speed are recorded.

        explicit: the user named the model, so it becomes the default of later runs.
        """
        if remote := self.create_remote_backend():
            return remote
        library = LocalModels.from_paths(self._paths)
        selected = library.select_model(self._config.model)
        backend = self._create_shared_backend(selected, library)
        return UsageLoggingBackend(backend, selected, library.usage_log, explicit=explicit and not selected.notice)

    def create_local_backend(self, tuning_source: TuningSource | None = None) -> LocalBackend:
        """Return a local model in an engine process of its own. tuning_source: replaces the stored measurements."""
        library = LocalModels.from_paths(self._paths)
        return self._build_local_backend(library.select_model(self._config.model), library, tuning_source=tuning_source)

    def create_remote_backend(self) -> RemoteBackend | None:
        """Return the backend of an endpoint's model, None for a local model. Sends nothing yet."""
        endpoint_model = parse_endpoint_model(self._config.model, self._config.endpoints)
        if endpoint_model is None:
            return None
        from phichat.engine.remote.backend import RemoteBackend

        api_key = resolve_api_key(endpoint_model.endpoint, self._context.environment)
        return RemoteBackend(endpoint_model, api_key, self._config.explicit)

    def create_replay_backend(
        self, turn: TurnRecord, recorded_path: str | None, overridden: Collection[str] = ()
    ) -> Backend:
        """Return the model that answered a turn, loaded with the recorded options.

        recorded_path: of the model file then. overridden: options whose current value replaces the recorded one.
        """
        model = turn.model
        assert model is not None
        recorded: dict[str, Any] = {
            "ctx_size": turn.n_ctx or model.n_ctx or None,
            "threads": model.threads or None,
            "cache_type_k": model.cache_type_k or None,
            "cache_type_v": model.cache_type_v or None,
            "n_gpu_layers": model.n_gpu_layers if model.n_layers else None,
        }
        options = {key: value for key, value in recorded.items() if value is not None and key not in overridden}
        name = self._config.model
        if "model" not in overridden:
            name = self.find_recorded_model(model.name, (recorded_path, name))
        factory = BackendFactory(self._context.with_config(model=name, engine=replace(self._config.engine, **options)))
        return factory.create_remote_backend() or factory.create_local_backend()

    def find_recorded_model(self, name: str, candidates: Sequence[str | None]) -> str:
        """Return what `-m` takes for the model that answered under this name: the name itself or a candidate.

        Raises ModelNotInstalled.
        """
        if parse_endpoint_model(name, self._config.endpoints):
            return name
        library = LocalModels.from_paths(self._paths)
        for candidate in (name, *candidates):
            try:
                if candidate and library.select_model(candidate).model.name == name:
                    return candidate
            except ModelNotInstalled:
                continue
        message = f"The model of this conversation, {name}, is not installed"
        raise ModelNotInstalled(message, "Install it, or use another one with -m")

    def apply_model_defaults(self) -> tuple[Config, TrainingScope | None]:
        """Return the settings with the registry's sampling options for the model where the user set none, and the
        code that the model was trained to write, None if unknown.

        Raises ModelNotInstalled, UsageError and ConfigError.
        """
        if parse_endpoint_model(self._config.model, self._config.endpoints):
            return self._config, None
        spec = LocalModels.from_paths(self._paths).select_model(self._config.model).model.spec
        return (self._config.with_model_defaults(spec.sampling), spec.scope) if spec else (self._config, None)

    def list_endpoint_models(self, name: str, cancel: CancelToken) -> Sequence[RemoteModel]:
        """Return the models of an endpoint's server. Raises UsageError, ConfigError and EndpointError kinds."""
        endpoints = self._config.endpoints
        if name not in endpoints:
            known = "The endpoints are " + ", ".join(endpoints) if endpoints else ""
            next_step = known or f"Add [endpoints.{name}] with a base_url to config.toml"
            raise UsageError(f"There is no endpoint {name}", next_step)
        from phichat.engine.remote.client import list_models

        return list_models(endpoints[name], resolve_api_key(endpoints[name], self._context.environment), cancel)

    def _create_shared_backend(self, selected: SelectedModel, library: LocalModels) -> Backend:
        """Return a backend whose engine process stays loaded for keep_alive, or a private one where that is 0 or
        the system has no background engines."""
        config, paths, model = self._config, self._paths, selected.model

        address, registry = None, DaemonRegistry.for_cache(paths.cache) if config.keep_alive else None
        with suppress(OSError):
            address = registry.make_address(model.path, config.engine) if registry else None
        create_private_backend = partial(
            self._build_local_backend, selected, library, address=address, use_kv_store=True
        )
        if address is None:
            return create_private_backend()

        def get_spin_count() -> int:
            from phichat.engine.autotune.tuning_cache import TuningCache, resolve_spin_count

            return resolve_spin_count(model.path, TuningCache(paths.tuning_cache))

        return DaemonBackend(model.name, model.path, address, config.keep_alive, create_private_backend, get_spin_count)

    def _build_local_backend(
        self,
        selected: SelectedModel,
        library: LocalModels,
        start_process: ProcessStarter | None = None,
        address: DaemonAddress | None = None,
        *,
        use_kv_store: bool = False,
        tuning_source: TuningSource | None = None,
    ) -> LocalBackend:
        """address: of the background engine that will be loaded, which is not stopped to free memory."""
        from phichat.engine.autotune.cpu_buffer_probe import ProbeCache
        from phichat.engine.autotune.tuning_cache import TuningCache
        from phichat.engine.kv_store import KvStore
        from phichat.engine.local import LocalBackend
        from phichat.models.local.verification import LoadVerifier

        config, paths, model = self._config, self._paths, selected.model

        def free_memory() -> bool:
            from phichat.engine.daemon.running_engines import stop_idle

            registry = DaemonRegistry.for_cache(paths.cache)
            return registry is not None and stop_idle(registry, address)

        return LocalBackend(
            model.name,
            model.path,
            config.engine,
            ProbeCache(paths.cpu_buffer_probes),
            verifier=LoadVerifier(model, library.hash_cache),
            suggestions=suggest_models(library),
            start_process=start_process,
            free_memory=free_memory,
            kv_store=KvStore(paths.kv_store, config.state_budget) if use_kv_store else None,
            tuning_source=tuning_source or TuningCache(paths.tuning_cache),
        )


def suggest_models(library: LocalModels) -> list[tuple[str, int]]:
    """Return names and sizes in bytes of the registry's models, to suggest instead of one that does not fit."""
    return [(spec.name, spec.size) for spec in library.registry.values() if spec.size]
