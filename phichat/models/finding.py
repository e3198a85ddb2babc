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

from phichat.gguf_names import split_parts
from phichat.models.links import Links
from phichat.models.places import Places, Source
from phichat.models.registry import ModelSpec

_SHA256 = re.compile(r"[0-9a-f]{64}")
_QUANTIZATION = re.compile(r"(?i)(?:^|[-._/])((?:UD-)?I?Q\d\w*|TQ\d_\d|MXFP4\w*|BF16|F16|F32)$")
_SPLIT = re.compile(r"-\d{5}-of-\d{5}$")
_MOST_MANIFEST = 1 << 20
_OLLAMA_MODEL = "application/vnd.ollama.image.model"


@dataclass(frozen=True, slots=True)
class Part:
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
    source: Source
    parts: tuple[Part, ...]
    also_called: tuple[str, ...] = ()
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

    def is_called(self, name: str) -> bool:
        """Whether it goes by that name, in upper or lower case."""
        wanted = name.lower()
        return wanted in (self.name.lower(), *(other.lower() for other in self.also_called))


def file_size(path: Path) -> int:
    """Bytes; 0 when there is no such file."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def quantization_in(file: str) -> str:
    """The quantization that the name of a GGUF ends in, "" when it does not."""
    found = _QUANTIZATION.search(_SPLIT.sub("", file[: -len(".gguf")] if file.lower().endswith(".gguf") else file))
    return found[1].upper() if found else ""


def find(places: Places, registry: Mapping[str, ModelSpec]) -> Iterator[ModelFile]:
    """Every model of every source, the preferred sources first. Raises ConfigError for unreadable links."""
    yield from (_with_spec(model, registry) for model in _hub(places.hub))
    yield from (_with_spec(model, registry) for model in _downloads(places.downloads))
    for link in Links(places.links).all().values():
        files = split_parts(link.path)
        hashes = (*link.hashes, *[""] * len(files))
        yield ModelFile(link.name, Source.LINK, tuple(map(Part, files, hashes)), (link.path.stem, link.path.name))
    for spec in registry.values():
        if path := packaged(spec):
            yield _called(spec, ModelFile(spec.name, Source.PACKAGE, (Part(path, spec.sha256),)))
    for folder in places.lm_studio:
        yield from (_with_spec(model, registry) for model in _lm_studio(folder))
    for folder in places.ollama:
        yield from (_with_spec(model, registry) for model in _ollama(folder))


def by_path(path: Path) -> ModelFile:
    """A model that is named by the path of one of its files, which need not exist."""
    files = split_parts(path)
    return ModelFile(_SPLIT.sub("", files[0].stem), Source.PATH, tuple(Part(file) for file in files))


def packaged(spec: ModelSpec) -> Path | None:
    """The file in the package that carries it; the package itself is not imported."""
    found = importlib.util.find_spec(spec.package) if spec.package else None
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / spec.file
    return path if path.is_file() else None


def _with_spec(model: ModelFile, registry: Mapping[str, ModelSpec]) -> ModelFile:
    for spec in registry.values():
        same_file = (spec.repository.lower(), Path(spec.file).name) == (model.repository.lower(), model.path.name)
        if same_file or (spec.sha256 and spec.sha256 == model.parts[0].sha256):
            return _called(spec, model)
    return model


def _called(spec: ModelSpec, model: ModelFile) -> ModelFile:
    names = dict.fromkeys(other for other in (*spec.aliases, model.name, *model.also_called) if other != spec.name)
    first = model.parts[0]
    if not first.sha256 and spec.revision and file_size(first.path) == spec.size:
        first = replace(first, sha256=spec.sha256)
    return replace(model, name=spec.name, also_called=tuple(names), spec=spec, parts=(first, *model.parts[1:]))


def subfolders(folder: Path) -> list[Path]:
    """By name; none when it cannot be read."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _models_under(folder: Path) -> Iterator[tuple[Path, ...]]:
    """The parts of each model under a folder; of a split one all, whether or not they are there."""
    seen = set()
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            files = split_parts(Path(place, name))
            if name.lower().endswith(".gguf") and files[0] not in seen and any(file.exists() for file in files):
                seen.add(files[0])
                yield files


def _of_repository(
    repository: str, source: Source, root: Path, models: Iterable[tuple[Path, ...]], revision: str = ""
) -> list[ModelFile]:
    """Named owner/repository:QUANTIZATION where that is one model, else by the file."""
    found = []
    listed = list(models)
    quantizations = [quantization_in(files[0].relative_to(root).as_posix()) for files in listed]
    for files, quantization in zip(listed, quantizations, strict=True):
        where = repository + (f"@{revision[:7]}" if revision else "")
        file = f"{where}/{files[0].relative_to(root).as_posix()}"
        names = [files[0].name, files[0].stem, _SPLIT.sub("", files[0].stem)]
        names += [f"{where}:{quantization}"] if quantization and quantizations.count(quantization) == 1 else []
        names += [where] if len(listed) == 1 else []
        short = f"{where}:{quantization}"
        name = short if short in names else file
        parts = tuple(Part(path, _blob_sha256(path)) for path in files)
        found.append(ModelFile(name, source, parts, tuple(dict.fromkeys([file, *names])), repository))
    return found


def _blob_sha256(path: Path) -> str:
    """The hub's cache links to files that bear their sha256 as name."""
    try:
        name = path.readlink().name
    except (OSError, ValueError):
        return ""
    return name if _SHA256.fullmatch(name) else ""


def _hub(cache: Path) -> Iterator[ModelFile]:
    for folder in subfolders(cache):
        if not folder.name.startswith("models--"):
            continue
        repository = folder.name.removeprefix("models--").replace("--", "/", 1)
        taken: set[Path] = set()
        for snapshot in _snapshots(folder):
            models = [files for files in _models_under(snapshot) if files[0].resolve() not in taken]
            # The newest revision goes by the plain name.
            revision = snapshot.name if taken else ""
            taken.update(files[0].resolve() for files in models)
            yield from _of_repository(repository, Source.HUB, snapshot, models, revision)


def _snapshots(repository: Path) -> list[Path]:
    """The one that `main` was last, then the newest first."""
    try:
        main = (repository / "refs" / "main").read_text("utf-8")[:64].strip()
    except (OSError, ValueError):
        main = ""
    snapshots = subfolders(repository / "snapshots")
    return sorted(snapshots, key=lambda folder: (folder.name == main, folder.stat().st_mtime_ns), reverse=True)


def _downloads(folder: Path) -> Iterator[ModelFile]:
    for files in _models_under(folder):
        name = _SPLIT.sub("", files[0].stem)
        yield ModelFile(name, Source.DOWNLOAD, tuple(Part(file) for file in files), (files[0].name, files[0].stem))


def _lm_studio(folder: Path) -> Iterator[ModelFile]:
    for publisher in subfolders(folder):
        for model in subfolders(publisher):
            repository = f"{publisher.name}/{model.name}"
            yield from _of_repository(repository, Source.LM_STUDIO, model, _models_under(model))


def _ollama(folder: Path) -> Iterator[ModelFile]:
    manifests = folder / "manifests"
    for place, folders, tags in os.walk(manifests):
        folders.sort()
        for tag in sorted(tags):
            digest = _ollama_digest(Path(place, tag))
            if not digest:
                continue
            named = Path(place).relative_to(manifests).parts
            # As Ollama shows them: its own registry and its library go without saying.
            shown = "/".join(named).removeprefix("registry.ollama.ai/").removeprefix("library/")
            names = [shown] if tag == "latest" else []
            names += [f"{shown.removeprefix('hf.co/')}:{tag}"] if shown.startswith("hf.co/") else []
            part = Part(folder / "blobs" / f"sha256-{digest}", digest)
            yield ModelFile(f"{shown}:{tag}", Source.OLLAMA, (part,), tuple(names))


def _ollama_digest(manifest: Path) -> str:
    """The sha256 of the model that a manifest names; "" when it names none."""
    try:
        with manifest.open("rb") as file:
            document = json.loads(file.read(_MOST_MANIFEST))
        for layer in document["layers"]:
            if layer["mediaType"] == _OLLAMA_MODEL:
                digest = str(layer["digest"]).removeprefix("sha256:")
                return digest if _SHA256.fullmatch(digest) else ""
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return ""
