"""The models on this machine, and the one that a name means."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from phichat.errors import ModelNotInstalled, PhichatError, UsageError
from phichat.gguf.split import list_split_paths
from phichat.models.hub_layout import parse_quantization
from phichat.models.local.discovery import ModelFile, discover_models, model_at_path
from phichat.models.local.hash_cache import HashCache
from phichat.models.local.locations import ModelLocations, ModelSource
from phichat.models.local.usage_log import UsageLog
from phichat.models.registry import ModelSpec, find_spec, missing_file_error, read_registry, unknown_model_error
from phichat.paths import Paths, expand_user
from phichat.storage.fingerprint import compute_fingerprint
from phichat.storage.json_file import FileMetadataCache

DEMO_MODEL = "smollm2-135m"
"""The model of the `demo` extra."""

_HUB_SITES = re.compile(r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/", re.IGNORECASE)
_SPEC = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?::(?P<quantization>[\w.-]+))?(?P<file>(?:/[^/]+)*/[^/]+\.gguf)?")


@dataclass(frozen=True, slots=True)
class HeaderSummary:
    """Facts from a header. problem: why the model cannot chat, "" if it can; damaged: the file itself is at fault."""

    architecture: str = ""
    title: str = ""
    quantization: str = ""
    context_length: int = 0
    problem: str = ""
    damaged: bool = False


class HeaderCache(FileMetadataCache):
    """Header summaries, by path. Reading past a vocabulary takes tens of milliseconds, so it is done once per file."""

    def get_summary(self, path: Path) -> HeaderSummary:
        """Return the summary of a model, whole or split. Does not raise: errors become its problem."""
        entry, key = self.read_entry(path), [list(compute_fingerprint(part)) for part in list_split_paths(path)]
        if entry.get("key") == key:
            with suppress(KeyError, TypeError):
                return HeaderSummary(**entry["facts"])
        summary = _read_summary(path)
        if all(key):
            self.write_entry(path, {"key": key, "facts": asdict(summary)})
        return summary


def _read_summary(path: Path) -> HeaderSummary:
    from phichat.gguf.header import check_usable, read_model_header

    header, problem = None, ""
    try:
        header = read_model_header(path)
        check_usable(header, path)
    except PhichatError as error:
        problem = error.message
    if header is None:
        return HeaderSummary(problem=problem, damaged=True)
    return HeaderSummary(header.architecture, header.name, header.quantization, header.context_length, problem)


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """The model of a run. notice: a remark for the user on how it was selected, or ""."""

    model: ModelFile
    notice: str = ""


@dataclass(eq=False)
class LocalModels:
    """The installed models, as they were when first listed. Makes no connection."""

    locations: ModelLocations
    registry: Mapping[str, ModelSpec]
    hash_cache: HashCache
    usage_log: UsageLog
    header_cache: HeaderCache

    @classmethod
    def from_paths(cls, paths: Paths, environ: Mapping[str, str] = os.environ) -> LocalModels:
        """Return the models of these folders. Raises ConfigError for the user's models.toml."""
        locations, registry = ModelLocations.from_environment(paths, environ), read_registry(paths.user_registry)
        caches = HashCache(paths.hash_cache), UsageLog(paths.usage_log), HeaderCache(paths.header_cache)
        return cls(locations, registry, *caches)

    @cached_property
    def models(self) -> tuple[ModelFile, ...]:
        """All installed models, damaged files and models of other kinds included. Raises ConfigError."""
        return tuple(discover_models(self.locations, self.registry))

    def get_summary(self, model: ModelFile) -> HeaderSummary:
        """Return the facts of its header."""
        return self.header_cache.get_summary(model.path)

    def select_model(self, query: str | None) -> SelectedModel:
        """Return the model of a name; for None the one chosen last, else the only one, else the built-in one.

        Raises ModelNotInstalled, and UsageError for an ambiguous name.
        """
        if query is not None:
            return SelectedModel(self.resolve_model(query))
        if (last := self.usage_log.last_chosen()) and last.exists():
            return SelectedModel(self._model_at(last))
        chat_models = [model for model in self.models if not self.get_summary(model).problem]
        demos = [model for model in chat_models if (model.source, model.name) == (ModelSource.PACKAGE, DEMO_MODEL)]
        others = _deduplicate([model for model in chat_models if model.name != DEMO_MODEL])
        if len(others) == 1:
            return SelectedModel(others[0])
        if demos:
            choose = "choose one of `phichat list` with -m, or " if others else ""
            advice = f"{choose}install a better one with `phichat pull phi-4-mini`."
            return SelectedModel(demos[0], f"Using the small built-in model; {advice}")
        if others:
            names = ", ".join(model.name for model in others)
            raise ModelNotInstalled("Several models are installed", f"Choose one with -m: {names}")
        next_step = "Download one with `phichat pull phi-4-mini`, or name a GGUF file with -m"
        raise ModelNotInstalled("No model is installed", next_step)

    def resolve_model(self, query: str) -> ModelFile:
        """Return the model of a registry name, an alias, any installed spec or name, or a path.

        The content of the file is not checked. Raises ModelNotInstalled and UsageError.
        """
        path = expand_user(query)
        if _is_path(query) and path.exists():
            return self._model_at(path)
        model = self.find_by_name(query) or (self._model_at(path) if path.is_file() else None)
        if model is None:
            raise self._not_installed_error(query)
        return model

    def find_by_name(self, query: str) -> ModelFile | None:
        """Return the installed model of a name, an alias or a spec, not of a path. Raises UsageError if ambiguous."""
        name = _parse_name(query)
        spec = find_spec(self.registry, name)
        matches = [model for model in self.models if spec and model.spec == spec]
        matches = matches or [model for model in self.models if model.matches_name(name)]
        distinct = _deduplicate(matches or self._find_by_repository(name))
        if len(distinct) > 1:
            names = ", ".join(f"{model.name} ({model.path})" for model in distinct)
            raise UsageError(f"{query} is ambiguous: {names}", "Give the path of one of them")
        return distinct[0] if distinct else None

    def _model_at(self, path: Path) -> ModelFile:
        """Return the model at a path; an installed one if it is one, because more is known of it."""
        real = path.resolve()
        installed = (model for model in self.models if real in [part.path.resolve() for part in model.parts])
        return next(installed, None) or model_at_path(path)

    def _find_by_repository(self, name: str) -> list[ModelFile]:
        """Return the models that owner/repository or owner/repository:QUANTIZATION can mean."""
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
        spec, match = find_spec(self.registry, name), _SPEC.fullmatch(name)
        if spec is None and _is_path(query) and not (match and (match["file"] or not name.lower().endswith(".gguf"))):
            return missing_file_error(query)
        if spec or match:
            subject, name = (spec.name, spec.name) if spec else (query, name)
            return ModelNotInstalled(f"{subject} is not installed", f"Download it with `phichat pull {name}`")
        return unknown_model_error(query, [*self.registry, *(model.name for model in self.models)])


def _parse_name(query: str) -> str:
    """Return the name in a query, which may be the URL of a page of the hub."""
    return re.sub(r"/(?:resolve|blob)/[^/]+/", "/", _HUB_SITES.sub("", query)).split("?")[0].rstrip("/")


def _is_path(query: str) -> bool:
    separators = {"/", os.sep, os.altsep or "/"}
    return query.startswith(("~", ".")) or query.lower().endswith(".gguf") or any(mark in query for mark in separators)


def _deduplicate(models: Sequence[ModelFile]) -> list[ModelFile]:
    """Drop copies of a model in less preferred places: the same hash, name and size, or file."""
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
