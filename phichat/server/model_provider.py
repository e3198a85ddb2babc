"""The models that clients may ask for: those that are installed, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from phichat.code_report import TrainingScope
from phichat.config.endpoints import parse_endpoint_model
from phichat.engine.backend import Backend
from phichat.errors import ModelNotInstalled, UsageError
from phichat.events import ModelReady
from phichat.models.local.discovery import ModelFile
from phichat.models.local.local_models import LocalModels
from phichat.services.app_context import AppContext
from phichat.services.backend_factory import BackendFactory
from phichat.types import SamplingParams


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model. created: when its file was, in seconds since 1970. params: how it is sampled where nobody says.

    n_ctx: in tokens, 0 while it has not been loaded.
    """

    name: str
    path: Path
    created: int
    params: SamplingParams
    training_scope: TrainingScope | None
    n_ctx: int = 0

    def hide_path(self, text: str) -> str:
        """text for a client, whom it does not concern where the file is."""
        for path in (self.path, self.path.resolve()):
            text = text.replace(str(path), self.name)
        return text


class ModelProvider:
    """backend_for: makes the backend of the model that a Config names. Raises PhichatError kinds.

    A client can ask for models, never for files: the name of a path would lead it to any of them.
    """

    def __init__(self, context: AppContext, backend_factory: Callable[[AppContext], Backend]) -> None:
        """Raises ModelNotInstalled, UsageError and ConfigError."""
        config, paths = context.config, context.paths
        if parse_endpoint_model(config.model, config.endpoints):
            raise UsageError(f"{config.model} is on a server itself", "Name a model of this machine with -m")
        self._context, self._backend_factory = context, backend_factory
        self._models_by_name: dict[str, ServedModel] = {}
        self._loaded_models: dict[str, ModelReady] = {}
        self._default_model: ModelFile | None = None
        self.notice = ""
        """How the model was chosen that answers where none is named, if that is worth a line."""
        library = LocalModels.from_paths(paths)
        try:
            selected = library.select_model(config.model)
        except ModelNotInstalled:
            if config.model is not None or not library.models:
                raise
            return  # there are several: each request has to name one
        self._default_model, self.notice = selected.model, selected.notice

    def list_models(self) -> Sequence[ServedModel]:
        """What can be chatted with. Raises ConfigError."""
        return [self._to_served_model(model) for model in self._list_files().values()]

    def get_model(self, name: str) -> ServedModel:
        """The model of that name as it is now. Raises as `find`."""
        return self._to_served_model(self._resolve_name(name))

    def find_model(self, name: str) -> ServedModel:
        """The model of that name, "" for the one that answers where none is named.

        Raises ModelNotInstalled, UsageError and ConfigError.
        """
        cached = self._models_by_name.get(name)
        if cached is None or not cached.path.exists():
            cached = self._models_by_name[name] = self._to_served_model(self._resolve_name(name))
        return cached

    def on_model_loaded(self, name: str, loaded_model: ModelReady) -> Sequence[str]:
        """A model stands in memory; the remarks on it that have not been made before."""
        previous, self._loaded_models[name] = self._loaded_models.get(name), loaded_model
        return () if previous is not None and previous.notices == loaded_model.notices else loaded_model.notices

    def create_backend(self, name: str) -> Backend:
        """A new one for that model. Raises as `find`."""
        return self._backend_factory(self._context_for(self.find_model(name).path))

    def _resolve_name(self, name: str) -> ModelFile:
        if not name:
            if self._default_model is None:
                raise UsageError("Several models are installed and none is chosen", "Name one of /v1/models")
            return self._default_model
        models = self._list_files()
        match = models.get(name) or next((model for model in models.values() if model.matches_name(name)), None)
        try:
            match = match or LocalModels.from_paths(self._context.paths).find_by_name(name)
        except UsageError:
            match = None  # several, told with where they are, which is not for clients
        if match is None:
            raise ModelNotInstalled(
                f"There is no model called {name[:100]!r} here", "/v1/models lists those that there are"
            )
        return match

    def _list_files(self) -> dict[str, ModelFile]:
        library = LocalModels.from_paths(self._context.paths)
        default_models = [self._default_model] if self._default_model else []
        models: dict[str, ModelFile] = {}
        for model in (*default_models, *(model for model in library.models if not library.get_summary(model).problem)):
            if model.path.exists():
                models.setdefault(model.name, model)
        return models

    def _to_served_model(self, model: ModelFile) -> ServedModel:
        try:
            created = int(model.path.stat().st_mtime)
            config, scope = BackendFactory(self._context_for(model.path)).apply_model_defaults()
        except (OSError, ModelNotInstalled) as error:
            raise ModelNotInstalled(f"The file of {model.name} has gone", "Name another one of /v1/models") from error
        loaded_model = self._loaded_models.get(model.name)
        return ServedModel(
            model.name, model.path, created, config.sampling, scope, loaded_model.model.n_ctx if loaded_model else 0
        )

    def _context_for(self, path: Path) -> AppContext:
        return self._context.with_config(model=str(path))
