"""All models of this user: which there are, and which one is meant."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from phichat.errors import ModelNotInstalled, UsageError
from phichat.models.local.discovery import ModelFile, discover_models, model_at_path, parse_quantization
from phichat.models.local.hash_cache import HashCache
from phichat.models.local.header_cache import HeaderCache, HeaderSummary
from phichat.models.local.locations import ModelLocations, ModelSource
from phichat.models.local.usage_log import UsageLog
from phichat.models.registry import ModelSpec, read_registry
from phichat.paths import Paths, expand_user

DEMO_MODEL = "smollm2-135m"
"""The model of the `demo` extra."""

_HUB_SITES = re.compile(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_SPEC = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?::(?P<quantization>[\w.-]+))?(?P<file>(?:/[^/]+)*/[^/]+\.gguf)?")


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """The model of a run. notice: what the user should know about how it was chosen, "" when nothing."""

    model: ModelFile
    notice: str = ""


class LocalModels:
    """What is installed, as of when it was first asked. Connects nowhere."""

    def __init__(
        self,
        locations: ModelLocations,
        registry: Mapping[str, ModelSpec],
        hash_cache: HashCache,
        usage_log: UsageLog,
        header_cache: HeaderCache,
    ) -> None:
        self.locations, self.registry = locations, registry
        self.hash_cache, self.usage_log = hash_cache, usage_log
        self._header_cache = header_cache

    @classmethod
    def from_paths(cls, paths: Paths, environ: Mapping[str, str] = os.environ) -> LocalModels:
        """The library of these folders. Raises ConfigError for the user's models.toml."""
        return cls(
            ModelLocations.from_environment(paths, environ),
            read_registry(paths.user_registry),
            HashCache(paths.hash_cache),
            UsageLog(paths.usage_log),
            HeaderCache(paths.header_cache),
        )

    @cached_property
    def models(self) -> tuple[ModelFile, ...]:
        """Everything that is here, damaged files and files of other kinds too."""
        return tuple(discover_models(self.locations, self.registry))

    def get_summary(self, model: ModelFile) -> HeaderSummary:
        """What its header says."""
        return self._header_cache.get_summary(model.path)

    def select_model(self, query: str | None) -> SelectedModel:
        """The model that is meant: `wanted`, else the one chosen last, else the only one, else the embedded one.

        Raises ModelNotInstalled, and UsageError where several could be meant.
        """
        if query is not None:
            return SelectedModel(self.resolve_model(query))
        if (last := self.usage_log.last_chosen()) and last.exists():
            return SelectedModel(self._model_at(last))
        chat_models = [model for model in self.models if not self.get_summary(model).problem]
        demo = next(
            (model for model in chat_models if model.source is ModelSource.PACKAGE and model.name == DEMO_MODEL), None
        )
        others = _deduplicate([model for model in chat_models if model.name != DEMO_MODEL])
        if len(others) == 1:
            return SelectedModel(others[0])
        if demo is not None:
            reason = "No model is chosen" if others else "No other model is installed"
            return SelectedModel(
                demo,
                f"{reason}, so the small embedded one answers; "
                + ("choose one of `phichat list` with -m, or " if others else "")
                + "get a better one with `phichat pull phi-4-mini`.",
            )
        if others:
            names = ", ".join(model.name for model in others)
            raise ModelNotInstalled("Several models are installed and none is chosen", f"Choose with -m one of {names}")
        raise ModelNotInstalled(
            "No model is installed", "Download one with `phichat pull phi-4-mini`, or give a GGUF file with -m"
        )

    def resolve_model(self, query: str) -> ModelFile:
        """The model of a registry name, an alias, any spec or name that is installed, or a path.

        Whether the file is a model at all is not looked at. Raises ModelNotInstalled and UsageError.
        """
        path = expand_user(query)
        if _is_path(query) and path.exists():
            return self._model_at(path)
        if model := self.find_by_name(query):
            return model
        if path.is_file():
            return self._model_at(path)
        raise self._not_installed_error(query)

    def find_by_name(self, query: str) -> ModelFile | None:
        """The installed model of a registry name, an alias, any spec or name; never what a path leads to.

        Raises UsageError where several could be meant.
        """
        name = _parse_name(query)
        spec = self._find_spec(name)
        matches = [model for model in self.models if spec and model.spec == spec]
        matches = (
            matches or [model for model in self.models if model.matches_name(name)] or self._find_by_repository(name)
        )
        distinct = _deduplicate(matches)
        if len(distinct) > 1:
            names = ", ".join(f"{model.name} ({model.path})" for model in distinct)
            raise UsageError(f"{query} could be any of {names}", "Give the path of the one that is meant")
        return distinct[0] if distinct else None

    def _find_spec(self, name: str) -> ModelSpec | None:
        return next((spec for spec in self.registry.values() if spec.matches_name(name)), None)

    def _model_at(self, path: Path) -> ModelFile:
        """The model at a path: an installed one where it is one of those, for more is known of them."""
        real = path.resolve()
        for model in self.models:
            if any(part.path.resolve() == real for part in model.parts):
                return model
        return model_at_path(path)

    def _find_by_repository(self, name: str) -> list[ModelFile]:
        """What owner/repository or owner/repository:QUANTIZATION means among several files."""
        match = _SPEC.fullmatch(name)
        if match is None or match["file"]:
            return []
        repository = match["repository"].lower()
        models = [model for model in self.models if model.repository.lower() == repository and "@" not in model.name]
        quantization = (match["quantization"] or "Q4_K_M").upper()
        exact = [model for model in models if parse_quantization(model.path.name) == quantization]
        return exact or ([] if match["quantization"] else models)

    def _not_installed_error(self, query: str) -> ModelNotInstalled:
        name = _parse_name(query)
        spec = self._find_spec(name)
        if spec is not None:
            return ModelNotInstalled(f"{spec.name} is not installed", f"Download it with `phichat pull {spec.name}`")
        match = _SPEC.fullmatch(name)
        if _is_path(query) and not (match and (match["file"] or not name.lower().endswith(".gguf"))):
            return ModelNotInstalled(f"There is no file {query}", "Check the path")
        if match:
            return ModelNotInstalled(f"{query} is not installed", f"Download it with `phichat pull {name}`")
        return ModelNotInstalled(
            f"There is no model called {query!r}", f"The nearest names are {', '.join(self.suggest_names(query))}"
        )

    def suggest_names(self, query: str) -> Sequence[str]:
        """The three names, of the registry and of what is installed, that are most like it."""
        import difflib

        names = {name.lower(): name for name in (*self.registry, *(model.name for model in self.models))}
        return [names[close] for close in difflib.get_close_matches(query.lower(), names, n=3, cutoff=0.0)]


def _parse_name(query: str) -> str:
    """What is named, also by the address of a page of a hub."""
    return re.sub(r"/(?:resolve|blob)/[^/]+/", "/", _HUB_SITES.sub("", query)).split("?")[0].rstrip("/")


def _is_path(query: str) -> bool:
    separators = {"/", os.sep, os.altsep or "/"}
    return query.startswith(("~", ".")) or query.lower().endswith(".gguf") or any(mark in query for mark in separators)


def _deduplicate(models: Sequence[ModelFile]) -> list[ModelFile]:
    """Without those that are the same in a less preferred place: of the same hash, or of the same name and size."""
    unique: list[ModelFile] = []
    for model in models:
        digest = model.parts[0].sha256
        if not any(
            (digest and digest == other.parts[0].sha256)
            or (model.name == other.name and model.size == other.size)
            or model.path.resolve() == other.path.resolve()
            for other in unique
        ):
            unique.append(model)
    return unique
