"""The curated list of models, models.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One entry. repository and file name it on the hub; size in bytes.

    package: an installed Python package that carries the same file, if there is one.
    """

    name: str
    title: str
    repository: str
    file: str
    quantization: str
    size: int
    sha256: str
    licence: str
    summary: str
    package: str | None = None
    aliases: tuple[str, ...] = ()


def read_registry() -> Mapping[str, ModelSpec]:
    """name -> entry, of the list that phichat ships."""
    source = files("phichat") / "models.toml"
    if not source.is_file():
        # A checkout keeps the list beside the package, where people look for it.
        source = Path(__file__).parents[2] / "models.toml"
    entries = tomllib.loads(source.read_text("utf-8"))
    return {
        name: ModelSpec(
            name,
            entry["title"],
            entry["repository"],
            entry["file"],
            entry["quantization"],
            entry["bytes"],
            entry["sha256"],
            entry["licence"],
            entry["summary"],
            entry.get("package"),
            tuple(entry.get("aliases", ())),
        )
        for name, entry in entries.items()
    }
