"""Provider of the models that clients can request: the installed ones, by name."""

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
from phichat.types import SamplingParams


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model. created: time of its file, in seconds since 1970. params: defaults of its sampling. n_ctx: in tokens, 0
    until it has been loaded."""

    name: str
    path: Path
    created: int
    params: SamplingParams
    training_scope: TrainingScope | None
    n_ctx: int = 0

    def hide_path(self, text: str) -> str:
        """Return text without the path of the file, which clients do not see."""
        for path in (self.path, self.path.resolve()):
            text = text.replace(str(path), self.name)
        return text


class ModelProvider:
    """Installed models as a server offers them.

    Clients name models, never files: a path would give access to any file. backend_factory: makes the backend of the
    model that a context names; raises PhichatError kinds.
    """

    def __init__(self, context: AppContext, backend_factory: Callable[[AppContext], Backend]) -> None:
        """Raises ModelNotInstalled, UsageError and ConfigError."""
        config = context.config
        if parse_endpoint_model(config.model, config.endpoints):
            raise UsageError(f"{config.model} is itself a remote endpoint", "Name a model of this machine with -m")
        self._context, self._backend_factory = context, backend_factory
        self._models_by_name: dict[str, ServedModel] = {}
        self._loaded_models: dict[str, ModelReady] = {}
        self._default_model: ModelFile | None = None
        self.notice = ""
        """How the default model was chosen, "" where that needs no mention."""
        library = LocalModels.from_paths(context.paths)
        try:
            selected = library.select_model(config.model)
            self._default_model, self.notice = selected.model, selected.notice
        except ModelNotInstalled:
            if config.model is not None or not library.models:
                raise  # else several are installed, and each request has to name one

    def list_models(self) -> Sequence[ServedModel]:
        """Return the chat models. Raises ConfigError."""
        return [self._to_served_model(model) for model in self._list_files().values()]

    def get_model(self, name: str) -> ServedModel:
        """Return the model as it is now. Raises what `find_model` does."""
        return self._to_served_model(self._resolve_name(name))

    def find_model(self, name: str) -> ServedModel:
        """Return the model, from a cache; "" for the default. Raises ModelNotInstalled, UsageError, ConfigError."""
        cached = self._models_by_name.get(name)
        if cached is None or not cached.path.exists():
            cached = self._models_by_name[name] = self.get_model(name)
        return cached

    def on_model_loaded(self, name: str, loaded_model: ModelReady) -> Sequence[str]:
        """Note that a model was loaded, and return its notices unless they are the same as before."""
        previous, self._loaded_models[name] = self._loaded_models.get(name), loaded_model
        return () if previous is not None and previous.notices == loaded_model.notices else loaded_model.notices

    def create_backend(self, name: str) -> Backend:
        """Return a new backend for the model. Raises what `find_model` does."""
        return self._backend_factory(self._context.with_config(model=str(self.find_model(name).path)))

    def _resolve_name(self, name: str) -> ModelFile:
        if not name:
            if self._default_model:
                return self._default_model
            raise UsageError("Several models are installed", "Name one of those that /v1/models lists")
        models = self._list_files()
        match = models.get(name) or next((model for model in models.values() if model.matches_name(name)), None)
        try:
            match = match or LocalModels.from_paths(self._context.paths).find_by_name(name)
        except UsageError:
            match = None  # ambiguous: the error names paths, which clients must not see
        if match is None:
            raise ModelNotInstalled(f"No model is called {name[:100]!r}", "See /v1/models")
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
        except OSError as error:
            raise ModelNotInstalled(f"The file of {model.name} is missing", "See /v1/models for others") from error
        loaded = self._loaded_models.get(model.name)
        n_ctx, config, spec = loaded.model.n_ctx if loaded else 0, self._context.config, model.spec
        params = config.with_model_defaults(spec.sampling).sampling if spec else config.sampling
        return ServedModel(model.name, model.path, created, params, spec.scope if spec else None, n_ctx)
