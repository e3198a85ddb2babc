"""Distributions installed for this interpreter, found by the names of files; nothing is imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from phichat.codecheck.typos import normalize_name


def find_distribution(name: str) -> str:
    """Return an installed distribution's name as its project spells it, "" when not installed. name: normalised."""
    for _, folders in _scan_site_folders():
        if name in folders:
            return _read_name(folders[name])
    return ""


def find_module_distribution(module: str, likely_distribution: str) -> str:
    """Return the installed distribution of a top-level module, "" when there is none; the likely one is tried first."""
    for files, folders in _scan_site_folders():
        if not files.intersection((module, f"{module}.py")) and not any(
            file.startswith(f"{module}.") and file.endswith((".so", ".pyd")) for file in files
        ):
            continue
        likely_names = (normalize_name(likely_distribution), normalize_name(module))
        for folder in (*(folders[name] for name in likely_names if name in folders), *folders.values()):
            if _provides(folder, module):
                return _read_name(folder)
    return ""


@cache
def _scan_site_folders() -> list[tuple[frozenset[str], dict[str, Path]]]:
    """Return the files of each site-packages folder, and its metadata folders by normalised name."""
    site_folders = []
    for folder in _iter_site_packages():
        try:
            files = frozenset(entry.name for entry in folder.iterdir())
        except OSError:
            continue
        infos = [file for file in sorted(files) if file.endswith(".dist-info")]
        metadata = {normalize_name(file.split("-", 1)[0]): folder / file for file in infos}
        site_folders.append((files, metadata))
    return site_folders


def _iter_site_packages() -> Iterator[Path]:
    """Yield the folders of sys.path that installers write to, never the working directory or a checkout.

    They are recognised by name, since asking sysconfig takes longer than the rest of the check.
    """
    for entry in dict.fromkeys(sys.path):
        folder = Path(entry)
        if folder.is_absolute() and folder.name in ("site-packages", "dist-packages"):
            yield folder


def _provides(folder: Path, module: str) -> bool:
    try:
        record = (folder / "RECORD").read_bytes()
    except OSError:
        return False
    name = module.encode()
    return any(b"\n" + name + end in b"\n" + record for end in (b"/", b".py,", b".cpython-", b".abi3.", b".cp3"))


def _read_name(folder: Path) -> str:
    """Return the name as its project spells it, or the folder's when the metadata cannot be read."""
    try:
        with (folder / "METADATA").open(encoding="utf-8", errors="replace") as lines:
            names = (line.removeprefix("Name:").strip() for line in lines if line.startswith("Name:"))
            return next(names, folder.name.split("-", 1)[0])
    except OSError:
        return folder.name.split("-", 1)[0]
