"""The models that clients may ask for: those that are installed, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.code_report import CodeScope
from phichat.config import Config
from phichat.endpoints import served
from phichat.engine.backend import Backend
from phichat.errors import ModelNotInstalled, UsageError
from phichat.events import ModelReady
from phichat.messages import GenerationParams
from phichat.models.finding import ModelFile
from phichat.models.library import Library
from phichat.paths import Paths
from phichat.wiring import suited


@dataclass(frozen=True, slots=True)
class Offer:
    """A model. created: when its file was, in seconds since 1970. params: how it is sampled where nobody says.

    n_ctx: in tokens, 0 while it has not been loaded.
    """

    name: str
    path: Path
    created: int
    params: GenerationParams
    scope: CodeScope | None
    n_ctx: int = 0

    def hide_path(self, text: str) -> str:
        """text for a client, whom it does not concern where the file is."""
        for path in (self.path, self.path.resolve()):
            text = text.replace(str(path), self.name)
        return text


class Menu:
    """backend_for: makes the backend of the model that a Config names. Raises PhichatError kinds.

    A client can ask for models, never for files: the name of a path would lead it to any of them.
    """

    def __init__(self, config: Config, paths: Paths, backend_for: Callable[[Config, Paths], Backend]) -> None:
        """Raises ModelNotInstalled, UsageError and ConfigError."""
        if served(config.model, config.endpoints):
            raise UsageError(f"{config.model} is on a server itself", "name a model of this machine with -m")
        self._config, self._paths, self._backend_for = config, paths, backend_for
        self._found: dict[str, Offer] = {}
        self._ready: dict[str, ModelReady] = {}
        self._default: ModelFile | None = None
        self.notice = ""
        """How the model was chosen that answers where none is named, if that is worth a line."""
        library = Library.open(paths)
        try:
            choice = library.choose(config.model)
        except ModelNotInstalled:
            if config.model is not None or not library.installed:
                raise
            return  # there are several: each request has to name one
        self._default, self.notice = choice.model, choice.notice

    def offers(self) -> Sequence[Offer]:
        """What can be chatted with. Raises ConfigError."""
        return [self._offer(model) for model in self._models().values()]

    def offer(self, name: str) -> Offer:
        """The model of that name as it is now. Raises as `find`."""
        return self._offer(self._named(name))

    def find(self, name: str) -> Offer:
        """The model of that name, "" for the one that answers where none is named.

        Raises ModelNotInstalled, UsageError and ConfigError.
        """
        known = self._found.get(name)
        if known is None or not known.path.exists():
            known = self._found[name] = self._offer(self._named(name))
        return known

    def loaded(self, name: str, ready: ModelReady) -> Sequence[str]:
        """A model stands in memory; the remarks on it that have not been made before."""
        before, self._ready[name] = self._ready.get(name), ready
        return () if before is not None and before.notices == ready.notices else ready.notices

    def backend(self, name: str) -> Backend:
        """A new one for that model. Raises as `find`."""
        return self._backend_for(self._for(self.find(name).path), self._paths)

    def _named(self, name: str) -> ModelFile:
        if not name:
            if self._default is None:
                raise UsageError("Several models are installed and none is chosen", "name one of /v1/models")
            return self._default
        models = self._models()
        found = models.get(name) or next((model for model in models.values() if model.is_called(name)), None)
        try:
            found = found or Library.open(self._paths).called(name)
        except UsageError:
            found = None  # several, told with where they are, which is not for clients
        if found is None:
            raise ModelNotInstalled(
                f"There is no model called {name[:100]!r} here", "/v1/models lists those that there are"
            )
        return found

    def _models(self) -> dict[str, ModelFile]:
        library = Library.open(self._paths)
        first = [self._default] if self._default else []
        models: dict[str, ModelFile] = {}
        for model in (*first, *(model for model in library.installed if not library.facts(model).problem)):
            if model.path.exists():
                models.setdefault(model.name, model)
        return models

    def _offer(self, model: ModelFile) -> Offer:
        config = self._for(model.path)
        try:
            created = int(model.path.stat().st_mtime)
            config, scope = suited(config, self._paths)
        except (OSError, ModelNotInstalled) as why:
            raise ModelNotInstalled(f"The file of {model.name} has gone", "name another one of /v1/models") from why
        ready = self._ready.get(model.name)
        return Offer(model.name, model.path, created, config.sampling, scope, ready.model.n_ctx if ready else 0)

    def _for(self, path: Path) -> Config:
        return replace(self._config, model=str(path))
