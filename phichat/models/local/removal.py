"""Removal of models: only phichat's own and the hub cache's, and only files that nothing else needs."""

import shutil
from pathlib import Path

from phichat.errors import ModelNotRemovable
from phichat.models.hub_layout import file_size, list_subfolders, repository_folder
from phichat.models.local.discovery import ModelFile
from phichat.models.local.links import LinkStore
from phichat.models.local.local_models import LocalModels
from phichat.models.local.locations import ModelSource


def check_removable(model: ModelFile) -> None:
    """Raise ModelNotRemovable, with how to remove it instead, for a model of another program or of the user."""
    package = model.spec.package if model.spec else ""
    refusals = {
        ModelSource.PACKAGE: (f"belongs to the Python package {package}", f"Remove it with `pip uninstall {package}`"),
        ModelSource.LM_STUDIO: ("belongs to LM Studio", "Remove it there, under My Models"),
        ModelSource.OLLAMA: ("belongs to Ollama", f"Remove it with `ollama rm {model.name}`"),
        ModelSource.PATH: ("is your own file", "Delete it yourself if you want"),
    }
    if refusal := refusals.get(model.source):
        reason, next_step = refusal
        raise ModelNotRemovable(f"{model.name} {reason}", next_step)


def remove_model(model: ModelFile, local_models: LocalModels) -> int:
    """Remove a model, of a link only the link; return the bytes freed. Raises ModelNotRemovable."""
    check_removable(model)
    if model.source is ModelSource.LINK:
        LinkStore(local_models.locations.links_file).remove_link(model.name)
        return 0
    for part in model.parts:
        local_models.hash_cache.remove_entry(part.path)
    local_models.usage_log.remove_entry(model.path)
    try:
        if model.source is ModelSource.HUB:
            return _remove_from_hub_cache(model, local_models.locations.hub)
        freed = model.size
        for part in model.parts:
            part.path.unlink(missing_ok=True)
        return freed
    except OSError as error:
        message = f"{error.filename} cannot be removed ({error.strerror})"
        raise ModelNotRemovable(message, "Close the program that uses it, or fix the permissions") from error


def _remove_from_hub_cache(model: ModelFile, cache: Path) -> int:
    """Remove the same file in every revision, and its blob unless another file links to it."""
    folder, freed = repository_folder(cache, model.repository), 0
    snapshots = folder / "snapshots"
    for part in model.parts:
        blob, name = part.path.resolve(), Path(*part.path.relative_to(snapshots).parts[1:])
        size = file_size(blob)
        for snapshot in list_subfolders(snapshots):
            if (snapshot / name).resolve() == blob:
                (snapshot / name).unlink(missing_ok=True)
        if not any(other.resolve() == blob for other in snapshots.rglob("*") if other.is_symlink()):
            # On a file system without links the file itself was in the snapshot.
            blob.unlink(missing_ok=True)
            freed += size
    _prune(folder)
    return freed


def _prune(folder: Path) -> None:
    """Remove empty folders, references to removed revisions, and a repository of which nothing is left."""
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
