"""Discovery of the models on this machine. Only folders, small manifests and file sizes are read; nothing is copied."""

import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from phichat.gguf.split import list_split_paths
from phichat.models.hub_layout import file_size, iter_repositories, list_subfolders, model_stem, parse_quantization
from phichat.models.local.links import LinkStore
from phichat.models.local.locations import ModelLocations, ModelSource
from phichat.models.registry import ModelSpec

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One file of a model. sha256: the expected hash, "" if its location does not give one."""

    path: Path
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """Installed model. parts: its files. aliases: other names. repository: on the hub, or "". spec: registry entry."""

    name: str
    source: ModelSource
    parts: tuple[ModelPart, ...]
    aliases: tuple[str, ...] = ()
    repository: str = ""
    spec: ModelSpec | None = None

    @property
    def path(self) -> Path:
        """The file to load: the only one, or the first part."""
        return self.parts[0].path

    @property
    def size(self) -> int:
        """Bytes of all parts that exist."""
        return sum(file_size(part.path) for part in self.parts)

    def matches_name(self, name: str) -> bool:
        """Return whether that is its name or an alias, in upper or lower case."""
        return name.lower() in (self.name.lower(), *(alias.lower() for alias in self.aliases))


def discover_models(locations: ModelLocations, registry: Mapping[str, ModelSpec]) -> Iterator[ModelFile]:
    """Yield every model of every source, preferred sources first. Raises ConfigError for unreadable links."""
    downloaded = chain(_iter_hub_models(locations.hub), _iter_downloads(locations.downloads))
    yield from (_attach_spec(model, registry) for model in downloaded)
    for link in LinkStore(locations.links_file).load().values():
        files = list_split_paths(link.path)
        parts = tuple(map(ModelPart, files, (*link.hashes, *[""] * len(files))))
        yield ModelFile(link.name, ModelSource.LINK, parts, (link.path.stem, link.path.name))
    for spec in registry.values():
        if path := find_packaged_model(spec):
            yield _with_registry_names(spec, ModelFile(spec.name, ModelSource.PACKAGE, (ModelPart(path, spec.sha256),)))
    others = chain(*map(_iter_lm_studio_models, locations.lm_studio), *map(_iter_ollama_models, locations.ollama))
    yield from (_attach_spec(model, registry) for model in others)


def model_at_path(path: Path) -> ModelFile:
    """Return the model at the path of one of its files, which need not exist."""
    files = list_split_paths(path)
    return ModelFile(model_stem(files[0]), ModelSource.PATH, tuple(ModelPart(file) for file in files))


def find_packaged_model(spec: ModelSpec) -> Path | None:
    """Return the file in the Python package that contains it; the package is not imported."""
    package_spec = importlib.util.find_spec(spec.package) if spec.package else None
    if package_spec is None or package_spec.origin is None:
        return None
    path = Path(package_spec.origin).parent / spec.file
    return path if path.is_file() else None


def _attach_spec(model: ModelFile, registry: Mapping[str, ModelSpec]) -> ModelFile:
    for spec in registry.values():
        same_file = (spec.repository.lower(), Path(spec.file).name) == (model.repository.lower(), model.path.name)
        if same_file or (spec.sha256 and spec.sha256 == model.parts[0].sha256):
            return _with_registry_names(spec, model)
    return model


def _with_registry_names(spec: ModelSpec, model: ModelFile) -> ModelFile:
    names = dict.fromkeys(other for other in (*spec.aliases, model.name, *model.aliases) if other != spec.name)
    first = model.parts[0]
    if not first.sha256 and spec.revision and file_size(first.path) == spec.size:
        first = replace(first, sha256=spec.sha256)
    return replace(model, name=spec.name, aliases=tuple(names), spec=spec, parts=(first, *model.parts[1:]))


def _iter_model_files(folder: Path) -> Iterator[tuple[Path, ...]]:
    """Yield the parts of each model under a folder; of a split model all parts, even missing ones."""
    seen = set()
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            files = list_split_paths(Path(root, name))
            if name.lower().endswith(".gguf") and files[0] not in seen and any(file.exists() for file in files):
                seen.add(files[0])
                yield files


def _name_repository_models(
    repository: str, source: ModelSource, root: Path, models: Iterable[tuple[Path, ...]], revision: str = ""
) -> Iterator[ModelFile]:
    """Name models owner/repository:QUANTIZATION where that is unique, else by the file."""
    groups = [(files, files[0].relative_to(root).as_posix()) for files in models]
    quantizations = [parse_quantization(file_name) for _, file_name in groups]
    prefix = repository + (f"@{revision[:7]}" if revision else "")
    for (files, file_name), quantization in zip(groups, quantizations, strict=True):
        name = f"{prefix}/{file_name}"
        names = [name, files[0].name, files[0].stem, model_stem(files[0])]
        if quantization and quantizations.count(quantization) == 1:
            name = f"{prefix}:{quantization}"
            names.append(name)
        if len(groups) == 1:
            names.append(prefix)
        parts = tuple(ModelPart(path, _blob_sha256(path)) for path in files)
        yield ModelFile(name, source, parts, tuple(dict.fromkeys(names)), repository)


def _blob_sha256(path: Path) -> str:
    """Return the sha256 from a link of the hub's cache, whose target is named by it."""
    with suppress(OSError, ValueError):
        if _SHA256.fullmatch(name := path.readlink().name):
            return name
    return ""


def _iter_hub_models(cache: Path) -> Iterator[ModelFile]:
    for repository, folder in iter_repositories(cache):
        seen: set[Path] = set()
        for snapshot in _list_snapshots(folder):
            models = [files for files in _iter_model_files(snapshot) if files[0].resolve() not in seen]
            # The newest revision has the plain name.
            revision = snapshot.name if seen else ""
            seen.update(files[0].resolve() for files in models)
            yield from _name_repository_models(repository, ModelSource.HUB, snapshot, models, revision)


def _list_snapshots(repository: Path) -> list[Path]:
    """Return the snapshot that `main` points to, then the others, newest first."""
    main = ""
    with suppress(OSError, ValueError):
        main = (repository / "refs" / "main").read_text("utf-8")[:64].strip()
    snapshots = list_subfolders(repository / "snapshots")
    return sorted(snapshots, key=lambda folder: (folder.name == main, folder.stat().st_mtime_ns), reverse=True)


def _iter_downloads(folder: Path) -> Iterator[ModelFile]:
    for files in _iter_model_files(folder):
        aliases = (files[0].name, files[0].stem)
        yield ModelFile(model_stem(files[0]), ModelSource.DOWNLOAD, tuple(map(ModelPart, files)), aliases)


def _iter_lm_studio_models(folder: Path) -> Iterator[ModelFile]:
    for publisher in list_subfolders(folder):
        for model in list_subfolders(publisher):
            repository = f"{publisher.name}/{model.name}"
            yield from _name_repository_models(repository, ModelSource.LM_STUDIO, model, _iter_model_files(model))


def _iter_ollama_models(folder: Path) -> Iterator[ModelFile]:
    manifests = folder / "manifests"
    for root, folders, tags in os.walk(manifests):
        folders.sort()
        # As Ollama shows them: without its own registry and library.
        segments = "/".join(Path(root).relative_to(manifests).parts)
        display_name = segments.removeprefix("registry.ollama.ai/").removeprefix("library/")
        for tag in sorted(tags):
            if digest := _read_ollama_digest(Path(root, tag)):
                names = [display_name] if tag == "latest" else []
                if display_name.startswith("hf.co/"):
                    names.append(f"{display_name.removeprefix('hf.co/')}:{tag}")
                part = ModelPart(folder / "blobs" / f"sha256-{digest}", digest)
                yield ModelFile(f"{display_name}:{tag}", ModelSource.OLLAMA, (part,), tuple(names))


def _read_ollama_digest(manifest: Path) -> str:
    """Return the sha256 of the model that a manifest names, "" if it names none."""
    with suppress(OSError, ValueError, KeyError, TypeError), manifest.open("rb") as file:
        for layer in json.loads(file.read(_MAX_MANIFEST_BYTES))["layers"]:
            if layer["mediaType"] == "application/vnd.ollama.image.model":
                digest = str(layer["digest"]).removeprefix("sha256:")
                return digest if _SHA256.fullmatch(digest) else ""
    return ""
