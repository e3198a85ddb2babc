"""From what a user calls a model to its file."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from phichat.errors import ModelNotInstalled
from phichat.models.registry import ModelSpec, read_registry

EMBEDDED = "smollm2-135m"
"""The model of the `demo` extra."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is here. name: what it is called, in the registry or by its file."""

    name: str
    path: Path


def resolve(wanted: str | None) -> ModelFile:
    """The file for a registry name, an alias or a path; for None the embedded default.

    Whether the file is a model at all is not looked at. Raises ModelNotInstalled.
    """
    if wanted is None:
        spec = read_registry()[EMBEDDED]
        if path := _packaged(spec):
            return ModelFile(spec.name, path)
        raise ModelNotInstalled(
            "No model is installed", "download one with `phichat pull phi-4-mini`, or give a GGUF file with -m"
        )
    path = Path(wanted).expanduser()
    if path.exists():
        return ModelFile(path.stem, path)
    for spec in read_registry().values():
        if wanted.lower() in (spec.name.lower(), *(alias.lower() for alias in spec.aliases)):
            if packaged := _packaged(spec):
                return ModelFile(spec.name, packaged)
            raise ModelNotInstalled(f"{spec.name} is not installed", f"download it with `phichat pull {spec.name}`")
    if wanted.endswith(".gguf") or any(mark in wanted for mark in (os.sep, "/", "~")):
        raise ModelNotInstalled(f"There is no file {wanted}", "check the path")
    raise ModelNotInstalled(f"There is no model called {wanted!r}", "give the path of a GGUF file, or a registry name")


def installed() -> Iterable[ModelFile]:
    """The models that are here, by registry name."""
    for spec in read_registry().values():
        if path := _packaged(spec):
            yield ModelFile(spec.name, path)


def _packaged(spec: ModelSpec) -> Path | None:
    """The file in the package that carries it; the package itself is not imported."""
    found = importlib.util.find_spec(spec.package) if spec.package else None
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / spec.file
    return path if path.is_file() else None
