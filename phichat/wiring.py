"""The composition root: which parts a run is made of."""

from __future__ import annotations

from phichat.chat.session import Session
from phichat.config import Config
from phichat.engine.local import LocalBackend
from phichat.engine.verdicts import Verdicts
from phichat.models.resolve import resolve
from phichat.paths import Paths


def local_backend(config: Config, paths: Paths) -> LocalBackend:
    """The backend for the model of this run. Raises ModelNotInstalled."""
    model = resolve(config.model)
    return LocalBackend(model.name, model.path, config.engine, Verdicts(paths.engine_verdicts))


def session(config: Config, paths: Paths) -> Session:
    """A new conversation. Raises ModelNotInstalled."""
    return Session(local_backend(config, paths), config.system)
