"""Models on disk as the programs beside phichat keep them: real folders, tiny files."""

import hashlib
import json
from pathlib import Path

from phichat.models.local.hash_cache import HashCache
from phichat.models.local.local_models import HeaderCache, LocalModels
from phichat.models.local.locations import ModelLocations
from phichat.models.local.usage_log import UsageLog
from phichat.models.registry import read_registry

COMMIT = "a" * 40


def library(home: Path) -> LocalModels:
    """Everything under one folder. Asked anew, it looks anew."""
    places = ModelLocations(
        home / "hub", home / "downloads", home / "data" / "links.json", (home / "studio",), (home / "ollama",)
    )
    registry = {name: spec for name, spec in read_registry(home / "models.toml").items() if not spec.package}
    return LocalModels(
        places, registry, HashCache(home / "proofs"), UsageLog(home / "used"), HeaderCache(home / "headers")
    )


def on_hub(cache: Path, repository: str, file: str, content: bytes, commit: str = COMMIT) -> Path:
    """What a download into the hub's cache leaves. The link in the snapshot."""
    folder = cache / ("models--" + repository.replace("/", "--"))
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / commit / file
    for path in (blob, link, folder / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(Path(*[".."] * (2 + file.count("/")), "blobs", blob.name))
    (folder / "refs" / "main").write_text(commit)
    return link


def in_ollama(models: Path, name: str, tag: str, content: bytes, registry: str = "registry.ollama.ai/library") -> Path:
    """What `ollama pull` leaves. The blob."""
    digest = hashlib.sha256(content).hexdigest()
    blob, manifest = models / "blobs" / f"sha256-{digest}", models / "manifests" / registry / name / tag
    for path in (blob, manifest):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(content)},
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return blob


def at(path: Path, content: bytes) -> Path:
    """A file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
