"""Removing models: only what is phichat's or the hub cache's, and of that only what nothing else needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from phichat.errors import ModelNotRemovable
from phichat.models.local.discovery import ModelFile, file_size, list_subfolders
from phichat.models.local.links import LinkStore
from phichat.models.local.local_models import LocalModels
from phichat.models.local.locations import ModelSource


def check_removable(model: ModelFile) -> None:
    """Raises ModelKept, saying how to remove it where it belongs."""
    match model.source:
        case ModelSource.PACKAGE:
            package = model.spec.package if model.spec else ""
            reason, advice = f"belongs to the Python package {package}", "remove that with `pip uninstall`"
        case ModelSource.LM_STUDIO:
            reason, advice = "belongs to LM Studio", "remove it there, under My Models"
        case ModelSource.OLLAMA:
            reason, advice = "belongs to Ollama", f"remove it with `ollama rm {model.name}`"
        case ModelSource.PATH:
            reason, advice = "is a file of your own", "remove the file itself if you want it gone"
        case _:
            return
    raise ModelNotRemovable(f"{model.name} {reason}", advice)


def remove_model(model: ModelFile, local_models: LocalModels) -> int:
    """Remove a model, of a link only the link; returns the bytes that were freed. Raises ModelKept."""
    check_removable(model)
    if model.source is ModelSource.LINK:
        LinkStore(local_models.locations.links_file).remove_link(model.name)
        return 0
    for part in model.parts:
        local_models.hash_cache.remove(part.path)
    local_models.usage_log.remove(model.path)
    try:
        if model.source is ModelSource.HUB:
            return _remove_from_hub_cache(model, local_models.locations.hub)
        sizes = sum(file_size(part.path) for part in model.parts)
        for part in model.parts:
            part.path.unlink(missing_ok=True)
        return sizes
    except OSError as error:
        raise ModelNotRemovable(
            f"{error.filename} cannot be removed ({error.strerror})", "Close what uses it, or mend the permissions"
        ) from error


def _remove_from_hub_cache(model: ModelFile, cache: Path) -> int:
    """The same file in other revisions goes too; a blob that another file links to stays."""
    folder = cache / ("models--" + model.repository.replace("/", "--"))
    snapshots = folder / "snapshots"
    freed = 0
    for part in model.parts:
        blob = part.path.resolve()
        name = Path(*part.path.relative_to(snapshots).parts[1:])
        size = file_size(blob)
        for snapshot in list_subfolders(snapshots):
            if (snapshot / name).resolve() == blob:
                (snapshot / name).unlink(missing_ok=True)
        if not any(other.resolve() == blob for other in snapshots.rglob("*") if other.is_symlink()):
            # Where links cannot be made, the file itself was in the snapshot.
            blob.unlink(missing_ok=True)
            freed += size
    _prune(folder)
    return freed


def _prune(folder: Path) -> None:
    """Folders that are empty now, references to revisions that are gone, and a repository of which nothing is left."""
    snapshots = folder / "snapshots"
    for path in sorted(snapshots.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    remaining = {path.name for path in list_subfolders(snapshots)}
    for reference in (folder / "refs").rglob("*"):
        if reference.is_file() and reference.read_text("utf-8", "replace").strip() not in remaining:
            reference.unlink()
    if not remaining and not any((folder / "blobs").glob("*")):
        shutil.rmtree(folder)
