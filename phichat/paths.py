"""Where phichat stores its files; the only user of platformdirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class _Below:
    """Attribute of `Paths`: a file or folder below one of its folders."""

    def __init__(self, folder: str, name: str) -> None:
        self._folder, self._name = folder, name

    def __get__(self, paths: Paths, owner: type[Paths]) -> Path:
        folder: Path = getattr(paths, self._folder)
        return folder / self._name


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one user, created when something is first written.

    models: the hub's cache, shared with other programs that download from it: HF_HUB_CACHE, else HF_HOME/hub.
    """

    config: Path
    data: Path
    cache: Path
    models: Path

    config_file = _Below("config", "config.toml")
    user_registry = _Below("config", "models.toml")  # models that the user added to the registry
    logs = _Below("data", "logs.db")  # the transcripts
    downloads = _Below("data", "models")  # models downloaded from a plain URL
    links_file = _Below("data", "links.json")  # names of linked model files
    usage_log = _Below("data", "used")  # the last use and the speed of each model
    hash_cache = _Below("cache", "proofs")  # the verified SHA-256 of model files
    header_cache = _Below("cache", "headers")  # summaries of GGUF headers
    kv_store = _Below("cache", "states")
    cpu_buffer_probes = _Below("cache", "engine.json")  # results on this machine
    tuning_cache = _Below("cache", "tuning.json")  # results of `bench --tune` on this machine

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """Return folders below PHICHAT_HOME if it is set, else the platform's own."""
        hub_home = Path(environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
        hub = Path(environ.get("HF_HUB_CACHE") or hub_home / "hub").expanduser()
        if home := environ.get("PHICHAT_HOME"):
            root = Path(home).expanduser().absolute()
            return cls(root / "config", root / "data", root / "cache", hub)
        from platformdirs import PlatformDirs

        dirs = PlatformDirs("phichat", appauthor=False)
        return cls(Path(dirs.user_config_dir), Path(dirs.user_data_dir), Path(dirs.user_cache_dir), hub)


def expand_user(text: str) -> Path:
    """Replace a leading `~` by the home folder; `~name` without such a user is the name of a file."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
