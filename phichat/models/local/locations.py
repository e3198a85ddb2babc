"""Where models may be on this machine: our own folders and those of programs beside us."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from phichat.paths import Paths, expand_user


class ModelSource(StrEnum):
    """Where a model comes from, in the order in which one is preferred."""

    HUB = "hub"
    """The hub's cache, shared with every tool that downloads from it."""
    DOWNLOAD = "download"
    """From a plain URL."""
    LINK = "link"
    """A file of the user's that was linked."""
    PACKAGE = "package"
    """An installed Python package."""
    LM_STUDIO = "lm-studio"
    OLLAMA = "ollama"
    PATH = "path"
    """Named by its path, and otherwise unknown."""


@dataclass(frozen=True, slots=True)
class ModelLocations:
    """Folders of models by source; links is the file that keeps the links. None has to exist."""

    hub: Path
    downloads: Path
    links_file: Path
    lm_studio: tuple[Path, ...] = ()
    ollama: tuple[Path, ...] = ()

    @classmethod
    def from_environment(cls, paths: Paths, environ: Mapping[str, str] = os.environ) -> ModelLocations:
        """Where the environment, or else each program's own default, says that they are."""
        home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
        if ollama_models := environ.get("OLLAMA_MODELS"):
            ollama: tuple[Path, ...] = (expand_user(ollama_models),)
        else:
            # As a service on Linux, Ollama has a home of its own.
            ollama = (home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))
        lm_studio = (home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models")
        return cls(paths.models, paths.downloads, paths.links_file, lm_studio, ollama)
