"""Locations of files."""

from pathlib import Path

from phichat.paths import Paths


def test_one_folder_holds_everything(tmp_path: Path) -> None:
    paths = Paths.from_environment({"PHICHAT_HOME": str(tmp_path)})
    assert {paths.config_file, paths.logs, paths.cpu_buffer_probes} == {
        tmp_path / "config" / "config.toml",
        tmp_path / "data" / "logs.db",
        tmp_path / "cache" / "engine.json",
    }


def test_the_hub_cache_is_where_the_hub_has_it(tmp_path: Path) -> None:
    assert Paths.from_environment({"HF_HOME": str(tmp_path)}).models == tmp_path / "hub"
    assert Paths.from_environment({"HF_HOME": "/elsewhere", "HF_HUB_CACHE": str(tmp_path)}).models == tmp_path


def test_finding_creates_nothing(tmp_path: Path) -> None:
    Paths.from_environment({"PHICHAT_HOME": str(tmp_path / "home")})
    assert not list(tmp_path.iterdir())
