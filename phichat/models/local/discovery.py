"""The models that are on this machine, found where they are and never copied.

Only directories, small manifests and file sizes are looked at; what a file holds is for others to read.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from phichat.gguf.split import list_split_paths
from phichat.models.local.links import LinkStore
from phichat.models.local.locations import ModelLocations, ModelSource
from phichat.models.registry import ModelSpec

_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUANTIZATION = re.compile(r"(?i)(?:^|[-._/])((?:UD-)?I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32)$")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_MAX_MANIFEST_BYTES = 1 << 20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One file of a model; sha256 is what it should have, "" when where it lies does not tell."""

    path: Path
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model that is here.

    name: what it is called; also_called: other names that lead to it. parts: its files, all of a split model.
    repository: on the hub, "" when it is not from there. spec: its entry in the registry.
    """

    name: str
    source: ModelSource
    parts: tuple[ModelPart, ...]
    aliases: tuple[str, ...] = ()
    repository: str = ""
    spec: ModelSpec | None = None

    @property
    def path(self) -> Path:
        """What is loaded: the file, or the first part."""
        return self.parts[0].path

    @property
    def size(self) -> int:
        """Bytes of all parts that are there."""
        return sum(file_size(part.path) for part in self.parts)

    def matches_name(self, name: str) -> bool:
        """Whether it goes by that name, in upper or lower case."""
        lowered = name.lower()
        return lowered in (self.name.lower(), *(other.lower() for other in self.aliases))


def file_size(path: Path) -> int:
    """Bytes; 0 when there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def parse_quantization(file_name: str) -> str:
    """The quantization that the name of a GGUF ends in, "" when it does not."""
    match = _QUANTIZATION.search(
        _SPLIT.sub("", file_name[: -len(".gguf")] if file_name.lower().endswith(".gguf") else file_name)
    )
    return match[1].upper() if match else ""


def discover_models(locations: ModelLocations, registry: Mapping[str, ModelSpec]) -> Iterator[ModelFile]:
    """Every model of every source, the preferred sources first. Raises ConfigError for unreadable links."""
    yield from (_attach_spec(model, registry) for model in _iter_hub_models(locations.hub))
    yield from (_attach_spec(model, registry) for model in _iter_downloads(locations.downloads))
    for link in LinkStore(locations.links_file).load().values():
        files = list_split_paths(link.path)
        hashes = (*link.hashes, *[""] * len(files))
        yield ModelFile(
            link.name, ModelSource.LINK, tuple(map(ModelPart, files, hashes)), (link.path.stem, link.path.name)
        )
    for spec in registry.values():
        if path := find_packaged_model(spec):
            yield _with_registry_names(spec, ModelFile(spec.name, ModelSource.PACKAGE, (ModelPart(path, spec.sha256),)))
    for folder in locations.lm_studio:
        yield from (_attach_spec(model, registry) for model in _iter_lm_studio_models(folder))
    for folder in locations.ollama:
        yield from (_attach_spec(model, registry) for model in _iter_ollama_models(folder))


def model_at_path(path: Path) -> ModelFile:
    """A model that is named by the path of one of its files, which need not exist."""
    files = list_split_paths(path)
    return ModelFile(_SPLIT.sub("", files[0].stem), ModelSource.PATH, tuple(ModelPart(file) for file in files))


def find_packaged_model(spec: ModelSpec) -> Path | None:
    """The file in the package that carries it; the package itself is not imported."""
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


def list_subfolders(folder: Path) -> list[Path]:
    """By name; none when it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _iter_model_files(folder: Path) -> Iterator[tuple[Path, ...]]:
    """The parts of each model under a folder; of a split one all, whether or not they are there."""
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
) -> list[ModelFile]:
    """Named owner/repository:QUANTIZATION where that is one model, else by the file."""
    named = []
    file_groups = list(models)
    quantizations = [parse_quantization(files[0].relative_to(root).as_posix()) for files in file_groups]
    for files, quantization in zip(file_groups, quantizations, strict=True):
        prefix = repository + (f"@{revision[:7]}" if revision else "")
        file = f"{prefix}/{files[0].relative_to(root).as_posix()}"
        names = [files[0].name, files[0].stem, _SPLIT.sub("", files[0].stem)]
        names += [f"{prefix}:{quantization}"] if quantization and quantizations.count(quantization) == 1 else []
        names += [prefix] if len(file_groups) == 1 else []
        short_name = f"{prefix}:{quantization}"
        name = short_name if short_name in names else file
        parts = tuple(ModelPart(path, _blob_sha256(path)) for path in files)
        named.append(ModelFile(name, source, parts, tuple(dict.fromkeys([file, *names])), repository))
    return named


def _blob_sha256(path: Path) -> str:
    """The hub's cache links to files that bear their sha256 as name."""
    try:
        name = path.readlink().name
    except (OSError, ValueError):
        return ""
    return name if _SHA256.fullmatch(name) else ""


def _iter_hub_models(cache: Path) -> Iterator[ModelFile]:
    for folder in list_subfolders(cache):
        if not folder.name.startswith("models--"):
            continue
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        seen: set[Path] = set()
        for snapshot in _list_snapshots(folder):
            models = [files for files in _iter_model_files(snapshot) if files[0].resolve() not in seen]
            # The newest revision goes by the plain name.
            revision = snapshot.name if seen else ""
            seen.update(files[0].resolve() for files in models)
            yield from _name_repository_models(repository, ModelSource.HUB, snapshot, models, revision)


def _list_snapshots(repository: Path) -> list[Path]:
    """The one that `main` was last, then the newest first."""
    try:
        main = (repository / "refs" / "main").read_text("utf-8")[:64].strip()
    except (OSError, ValueError):
        main = ""
    snapshots = list_subfolders(repository / "snapshots")
    return sorted(snapshots, key=lambda folder: (folder.name == main, folder.stat().st_mtime_ns), reverse=True)


def _iter_downloads(folder: Path) -> Iterator[ModelFile]:
    for files in _iter_model_files(folder):
        name = _SPLIT.sub("", files[0].stem)
        yield ModelFile(
            name, ModelSource.DOWNLOAD, tuple(ModelPart(file) for file in files), (files[0].name, files[0].stem)
        )


def _iter_lm_studio_models(folder: Path) -> Iterator[ModelFile]:
    for publisher in list_subfolders(folder):
        for model in list_subfolders(publisher):
            repository = f"{publisher.name}/{model.name}"
            yield from _name_repository_models(repository, ModelSource.LM_STUDIO, model, _iter_model_files(model))


def _iter_ollama_models(folder: Path) -> Iterator[ModelFile]:
    manifests = folder / "manifests"
    for root, folders, tags in os.walk(manifests):
        folders.sort()
        for tag in sorted(tags):
            digest = _read_ollama_digest(Path(root, tag))
            if not digest:
                continue
            segments = Path(root).relative_to(manifests).parts
            # As Ollama shows them: its own registry and its library go without saying.
            display_name = "/".join(segments).removeprefix("registry.ollama.ai/").removeprefix("library/")
            names = [display_name] if tag == "latest" else []
            names += [f"{display_name.removeprefix('hf.co/')}:{tag}"] if display_name.startswith("hf.co/") else []
            part = ModelPart(folder / "blobs" / f"sha256-{digest}", digest)
            yield ModelFile(f"{display_name}:{tag}", ModelSource.OLLAMA, (part,), tuple(names))


def _read_ollama_digest(manifest: Path) -> str:
    """The sha256 of the model that a manifest names; "" when it names none."""
    try:
        with manifest.open("rb") as file:
            document = json.loads(file.read(_MAX_MANIFEST_BYTES))
        for layer in document["layers"]:
            if layer["mediaType"] == _OLLAMA_MODEL:
                digest = str(layer["digest"]).removeprefix("sha256:")
                return digest if _SHA256.fullmatch(digest) else ""
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ""
