"""Where phichat stores its files; the only user of platformdirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one user, created when something is first written.

    models: the hub's cache, shared with other programs that download from it: HF_HUB_CACHE, else HF_HOME/hub.
    """

    config: Path
    data: Path
    cache: Path
    models: Path

    @property
    def config_file(self) -> Path:
        """Settings."""
        return self.config / "config.toml"

    @property
    def user_registry(self) -> Path:
        """Models that the user added to the registry."""
        return self.config / "models.toml"

    @property
    def logs(self) -> Path:
        """Transcripts."""
        return self.data / "logs.db"

    @property
    def downloads(self) -> Path:
        """Models downloaded from a plain URL."""
        return self.data / "models"

    @property
    def links_file(self) -> Path:
        """Names of linked model files."""
        return self.data / "links.json"

    @property
    def usage_log(self) -> Path:
        """Folder with the last use and the speed of each model."""
        return self.data / "used"

    @property
    def hash_cache(self) -> Path:
        """Folder with the verified SHA-256 of model files."""
        return self.cache / "proofs"

    @property
    def header_cache(self) -> Path:
        """Folder with summaries of GGUF headers."""
        return self.cache / "headers"

    @property
    def kv_store(self) -> Path:
        """Folder with KV states."""
        return self.cache / "states"

    @property
    def cpu_buffer_probes(self) -> Path:
        """Results of the CPU buffer probes on this machine."""
        return self.cache / "engine.json"

    @property
    def tuning_cache(self) -> Path:
        """Results of `bench --tune` on this machine."""
        return self.cache / "tuning.json"

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
