"""Folders that may hold models: phichat's own, and those of other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from phichat.paths import Paths, expand_user


class ModelSource(StrEnum):
    """Origin of a model, in order of preference."""

    HUB = "hub"  # the hub's cache, shared with every program that downloads from there
    DOWNLOAD = "download"  # a plain URL
    LINK = "link"  # a file of the user's that was linked
    PACKAGE = "package"  # an installed Python package
    LM_STUDIO = "lm-studio"
    OLLAMA = "ollama"
    PATH = "path"  # a path that the user named


@dataclass(frozen=True, slots=True)
class ModelLocations:
    """Folders of models by source, and the file of the links. None has to exist."""

    hub: Path
    downloads: Path
    links_file: Path
    lm_studio: tuple[Path, ...] = ()
    ollama: tuple[Path, ...] = ()

    @classmethod
    def from_environment(cls, paths: Paths, environ: Mapping[str, str] = os.environ) -> ModelLocations:
        """Return the locations that the environment sets, else each program's default."""
        home = Path(environ.get("HOME") or environ.get("USERPROFILE") or Path.home())
        # As a service on Linux, Ollama has a home of its own.
        ollama: tuple[Path, ...] = (home / ".ollama" / "models", Path("/usr/share/ollama/.ollama/models"))
        if ollama_models := environ.get("OLLAMA_MODELS"):
            ollama = (expand_user(ollama_models),)
        lm_studio = (home / ".lmstudio" / "models", home / ".cache" / "lm-studio" / "models")
        return cls(paths.models, paths.downloads, paths.links_file, lm_studio, ollama)
