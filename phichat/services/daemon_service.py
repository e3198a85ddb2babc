"""Background engines: list them, stop them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from phichat.engine.daemon.registry import DaemonRegistry
from phichat.errors import ModelNotInstalled
from phichat.models.local.local_models import LocalModels
from phichat.services.app_context import AppContext

if TYPE_CHECKING:
    from phichat.engine.daemon.running_engines import RunningEngine


class DaemonService:
    """The background engines of this user."""

    def __init__(self, context: AppContext) -> None:
        self._context = context
        self._registry = DaemonRegistry.for_cache(context.paths.cache)

    @property
    def is_enabled(self) -> bool:
        """True if backends of one model share an engine that outlives them; otherwise each has its own."""
        return bool(self._context.config.keep_alive) and self._registry is not None

    def list_engines(self) -> list[RunningEngine]:
        """Return the running engines."""
        from phichat.engine.daemon.running_engines import list_running

        return list(list_running(self._registry)) if self._registry else []

    def stop_engines(self, model: str | None) -> list[RunningEngine]:
        """Stop the engines that run a model, None for all, and return them.

        model: as `-m` takes it, or the name that `ps` shows. Raises UsageError and ConfigError.
        """
        from phichat.engine.daemon.running_engines import stop_engine

        model_path = ""
        if model is not None:
            with contextlib.suppress(ModelNotInstalled):
                model_path = str(LocalModels.from_paths(self._context.paths).resolve_model(model).path.resolve())
        matching = [
            engine
            for engine in self.list_engines()
            if model is None
            or ((info := engine.loaded_model) is not None and (info.model.name == model or info.path == model_path))
        ]
        for engine in matching:
            stop_engine(engine.address)
        return matching
