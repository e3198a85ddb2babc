"""Where phichat keeps things; the only user of platformdirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The folders of one user. Nothing is created until something is written."""

    config: Path
    data: Path
    cache: Path
    models: Path
    """The hub's cache, shared with every tool that downloads from it: HF_HUB_CACHE, else HF_HOME/hub."""

    @property
    def config_file(self) -> Path:
        """Settings."""
        return self.config / "config.toml"

    @property
    def logs(self) -> Path:
        """Transcripts."""
        return self.data / "logs.db"

    @property
    def user_registry(self) -> Path:
        """Models that the user adds to the registry."""
        return self.config / "models.toml"

    @property
    def downloads(self) -> Path:
        """Models that came from a plain URL."""
        return self.data / "models"

    @property
    def hash_cache(self) -> Path:
        """The folder that remembers what the files of models were proven to be."""
        return self.cache / "proofs"

    @property
    def links_file(self) -> Path:
        """Which files of the user's were linked, and under which names."""
        return self.data / "links.json"

    @property
    def usage_log(self) -> Path:
        """The folder that remembers when each model was used, and how fast it was."""
        return self.data / "used"

    @property
    def header_cache(self) -> Path:
        """The folder that remembers what the headers of models say."""
        return self.cache / "headers"

    @property
    def kv_store(self) -> Path:
        """The folder of KV states."""
        return self.cache / "states"

    @property
    def cpu_buffer_probes(self) -> Path:
        """What was found out about the engine's library on this machine."""
        return self.cache / "engine.json"

    @property
    def tuning_cache(self) -> Path:
        """What was measured of the engine on this machine."""
        return self.cache / "tuning.json"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """PHICHAT_HOME holds everything when it is set; else the platform's own folders."""
        hub_home = Path(environ.get("HF_HOME") or Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
        hub = Path(environ.get("HF_HUB_CACHE") or hub_home / "hub").expanduser()
        if home := environ.get("PHICHAT_HOME"):
            root = Path(home).expanduser().absolute()
            return cls(root / "config", root / "data", root / "cache", hub)
        from platformdirs import PlatformDirs

        dirs = PlatformDirs("phichat", appauthor=False)
        return cls(Path(dirs.user_config_dir), Path(dirs.user_data_dir), Path(dirs.user_cache_dir), hub)


def expand_user(text: str) -> Path:
    """A path as people type it: `~` is their home; where `~name` is nobody, it is the name of a file."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)
