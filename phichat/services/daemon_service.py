"""Background engines: list them, stop them."""

import contextlib

from phichat.engine.daemon.registry import DaemonRegistry
from phichat.engine.daemon.running_engines import RunningEngine, list_running, stop_engine
from phichat.errors import ModelNotInstalled
from phichat.models.local.local_models import LocalModels
from phichat.services.app_context import AppContext


def shares_engines(context: AppContext) -> bool:
    """Return whether backends of one model share an engine that outlives them; otherwise each has its own."""
    return bool(context.config.keep_alive) and DaemonRegistry.for_cache(context.paths.cache) is not None


def list_engines(context: AppContext) -> list[RunningEngine]:
    """Return the running background engines of this user."""
    registry = DaemonRegistry.for_cache(context.paths.cache)
    return list(list_running(registry)) if registry else []


def stop_engines(context: AppContext, model: str | None) -> list[RunningEngine]:
    """Stop the engines that run a model, None for all, and return them.

    model: as `-m` takes it, or the name that `ps` shows. Raises UsageError and ConfigError.
    """
    engines, path = list_engines(context), ""
    if model is not None:
        with contextlib.suppress(ModelNotInstalled):
            path = str(LocalModels.from_paths(context.paths).resolve_model(model).path.resolve())
        loaded = [(engine, engine.loaded_model) for engine in engines]
        engines = [engine for engine, info in loaded if info and (info.model.name == model or info.path == path)]
    for engine in engines:
        stop_engine(engine.address)
    return engines
