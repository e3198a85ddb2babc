"""Removing models: only what is phichat's or the hub cache's, and of that only what nothing else needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from phichat.errors import ModelKept
from phichat.models.finding import ModelFile, file_size, subfolders
from phichat.models.library import Library
from phichat.models.links import Links
from phichat.models.places import Source


def require_removable(model: ModelFile) -> None:
    """Raises ModelKept, saying how to remove it where it belongs."""
    match model.source:
        case Source.PACKAGE:
            package = model.spec.package if model.spec else ""
            what, how = f"belongs to the Python package {package}", "remove that with `pip uninstall`"
        case Source.LM_STUDIO:
            what, how = "belongs to LM Studio", "remove it there, under My Models"
        case Source.OLLAMA:
            what, how = "belongs to Ollama", f"remove it with `ollama rm {model.name}`"
        case Source.PATH:
            what, how = "is a file of your own", "remove the file itself if you want it gone"
        case _:
            return
    raise ModelKept(f"{model.name} {what}", how)


def remove(model: ModelFile, library: Library) -> int:
    """Remove a model, of a link only the link; returns the bytes that were freed. Raises ModelKept."""
    require_removable(model)
    if model.source is Source.LINK:
        Links(library.places.links).remove(model.name)
        return 0
    for part in model.parts:
        library.proofs.forget(part.path)
    library.used.forget(model.path)
    try:
        if model.source is Source.HUB:
            return _from_hub(model, library.places.hub)
        sizes = sum(file_size(part.path) for part in model.parts)
        for part in model.parts:
            part.path.unlink(missing_ok=True)
        return sizes
    except OSError as why:
        raise ModelKept(
            f"{why.filename} cannot be removed ({why.strerror})", "close what uses it, or mend the permissions"
        ) from why


def _from_hub(model: ModelFile, cache: Path) -> int:
    """The same file in other revisions goes too; a blob that another file links to stays."""
    folder = cache / ("models--" + model.repository.replace("/", "--"))
    snapshots = folder / "snapshots"
    freed = 0
    for part in model.parts:
        blob = part.path.resolve()
        name = Path(*part.path.relative_to(snapshots).parts[1:])
        size = file_size(blob)
        for snapshot in subfolders(snapshots):
            if (snapshot / name).resolve() == blob:
                (snapshot / name).unlink(missing_ok=True)
        if not any(other.resolve() == blob for other in snapshots.rglob("*") if other.is_symlink()):
            # Where links cannot be made, the file itself was in the snapshot.
            blob.unlink(missing_ok=True)
            freed += size
    _tidy(folder)
    return freed


def _tidy(folder: Path) -> None:
    """Folders that are empty now, references to revisions that are gone, and a repository of which nothing is left."""
    snapshots = folder / "snapshots"
    for path in sorted(snapshots.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            path.rmdir()
    left = {path.name for path in subfolders(snapshots)}
    for reference in (folder / "refs").rglob("*"):
        if reference.is_file() and reference.read_text("utf-8", "replace").strip() not in left:
            reference.unlink()
    if not left and not any((folder / "blobs").glob("*")):
        shutil.rmtree(folder)
