"""All models of this user: which there are, and which one is meant."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from phichat.errors import ModelNotInstalled, UsageError
from phichat.models.facts import Facts, Headers
from phichat.models.finding import ModelFile, by_path, find, quantization_in
from phichat.models.places import Places, Source
from phichat.models.proofs import Proofs
from phichat.models.registry import ModelSpec, read_registry
from phichat.models.used import Used
from phichat.paths import Paths, expanded

EMBEDDED = "smollm2-135m"
"""The model of the `demo` extra."""

_HUB_SITES = re.compile(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_SPEC = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?::(?P<quantization>[\w.-]+))?(?P<file>(?:/[^/]+)*/[^/]+\.gguf)?")


@dataclass(frozen=True, slots=True)
class Choice:
    """The model of a run. notice: what the user should know about how it was chosen, "" when nothing."""

    model: ModelFile
    notice: str = ""


class Library:
    """What is installed, as of when it was first asked. Connects nowhere."""

    def __init__(
        self, places: Places, registry: Mapping[str, ModelSpec], proofs: Proofs, used: Used, headers: Headers
    ) -> None:
        self.places, self.registry = places, registry
        self.proofs, self.used = proofs, used
        self._headers = headers

    @classmethod
    def open(cls, paths: Paths, environ: Mapping[str, str] = os.environ) -> Library:
        """The library of these folders. Raises ConfigError for the user's models.toml."""
        return cls(
            Places.find(paths, environ),
            read_registry(paths.own_models),
            Proofs(paths.model_proofs),
            Used(paths.model_uses),
            Headers(paths.headers),
        )

    @cached_property
    def installed(self) -> tuple[ModelFile, ...]:
        """Everything that is here, damaged files and files of other kinds too."""
        return tuple(find(self.places, self.registry))

    def facts(self, model: ModelFile) -> Facts:
        """What its header says."""
        return self._headers.facts(model.path)

    def choose(self, wanted: str | None) -> Choice:
        """The model that is meant: `wanted`, else the one chosen last, else the only one, else the embedded one.

        Raises ModelNotInstalled, and UsageError where several could be meant.
        """
        if wanted is not None:
            return Choice(self.resolve(wanted))
        if (last := self.used.last()) and last.exists():
            return Choice(self._at(last))
        chat = [model for model in self.installed if not self.facts(model).problem]
        embedded = next((model for model in chat if model.source is Source.PACKAGE and model.name == EMBEDDED), None)
        others = _distinct([model for model in chat if model.name != EMBEDDED])
        if len(others) == 1:
            return Choice(others[0])
        if embedded is not None:
            which = "No model is chosen" if others else "No other model is installed"
            return Choice(
                embedded,
                f"{which}, so the small embedded one answers; "
                + ("choose one of `phichat list` with -m, or " if others else "")
                + "get a better one with `phichat pull phi-4-mini`.",
            )
        if others:
            names = ", ".join(model.name for model in others)
            raise ModelNotInstalled("Several models are installed and none is chosen", f"choose with -m one of {names}")
        raise ModelNotInstalled(
            "No model is installed", "download one with `phichat pull phi-4-mini`, or give a GGUF file with -m"
        )

    def resolve(self, wanted: str) -> ModelFile:
        """The model of a registry name, an alias, any spec or name that is installed, or a path.

        Whether the file is a model at all is not looked at. Raises ModelNotInstalled and UsageError.
        """
        path = expanded(wanted)
        if _is_path(wanted) and path.exists():
            return self._at(path)
        if found := self.called(wanted):
            return found
        if path.is_file():
            return self._at(path)
        raise self._not_installed(wanted)

    def called(self, wanted: str) -> ModelFile | None:
        """The installed model of a registry name, an alias, any spec or name; never what a path leads to.

        Raises UsageError where several could be meant.
        """
        name = _name_in(wanted)
        spec = self._spec(name)
        found = [model for model in self.installed if spec and model.spec == spec]
        found = found or [model for model in self.installed if model.is_called(name)] or self._of_spec(name)
        distinct = _distinct(found)
        if len(distinct) > 1:
            names = ", ".join(f"{model.name} ({model.path})" for model in distinct)
            raise UsageError(f"{wanted} could be any of {names}", "give the path of the one that is meant")
        return distinct[0] if distinct else None

    def _spec(self, name: str) -> ModelSpec | None:
        return next((spec for spec in self.registry.values() if spec.is_called(name)), None)

    def _at(self, path: Path) -> ModelFile:
        """The model at a path: an installed one where it is one of those, for more is known of them."""
        real = path.resolve()
        for model in self.installed:
            if any(part.path.resolve() == real for part in model.parts):
                return model
        return by_path(path)

    def _of_spec(self, name: str) -> list[ModelFile]:
        """What owner/repository or owner/repository:QUANTIZATION means among several files."""
        match = _SPEC.fullmatch(name)
        if match is None or match["file"]:
            return []
        repository = match["repository"].lower()
        models = [model for model in self.installed if model.repository.lower() == repository and "@" not in model.name]
        wanted = (match["quantization"] or "Q4_K_M").upper()
        exact = [model for model in models if quantization_in(model.path.name) == wanted]
        return exact or ([] if match["quantization"] else models)

    def _not_installed(self, wanted: str) -> ModelNotInstalled:
        name = _name_in(wanted)
        spec = self._spec(name)
        if spec is not None:
            return ModelNotInstalled(f"{spec.name} is not installed", f"download it with `phichat pull {spec.name}`")
        match = _SPEC.fullmatch(name)
        if _is_path(wanted) and not (match and (match["file"] or not name.lower().endswith(".gguf"))):
            return ModelNotInstalled(f"There is no file {wanted}", "check the path")
        if match:
            return ModelNotInstalled(f"{wanted} is not installed", f"download it with `phichat pull {name}`")
        return ModelNotInstalled(
            f"There is no model called {wanted!r}", f"the nearest names are {', '.join(self.nearest(wanted))}"
        )

    def nearest(self, wanted: str) -> Sequence[str]:
        """The three names, of the registry and of what is installed, that are most like it."""
        import difflib

        names = {name.lower(): name for name in (*self.registry, *(model.name for model in self.installed))}
        return [names[close] for close in difflib.get_close_matches(wanted.lower(), names, n=3, cutoff=0.0)]


def _name_in(wanted: str) -> str:
    """What is named, also by the address of a page of a hub."""
    return re.sub(r"/(?:resolve|blob)/[^/]+/", "/", _HUB_SITES.sub("", wanted)).split("?")[0].rstrip("/")


def _is_path(wanted: str) -> bool:
    separators = {"/", os.sep, os.altsep or "/"}
    return (
        wanted.startswith(("~", ".")) or wanted.lower().endswith(".gguf") or any(mark in wanted for mark in separators)
    )


def _distinct(models: Sequence[ModelFile]) -> list[ModelFile]:
    """Without those that are the same in a less preferred place: of the same hash, or of the same name and size."""
    kept: list[ModelFile] = []
    for model in models:
        digest = model.parts[0].sha256
        if not any(
            (digest and digest == other.parts[0].sha256)
            or (model.name == other.name and model.size == other.size)
            or model.path.resolve() == other.path.resolve()
            for other in kept
        ):
            kept.append(model)
    return kept
