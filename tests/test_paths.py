"""Where things are kept, and how files are replaced."""

import sys
from pathlib import Path

import pytest

from phichat.paths import Paths, write_atomically


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


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX's")
def test_files_are_private_and_whole(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    write_atomically(file, b"one")
    write_atomically(file, b"two")
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(file.parent.iterdir()) == [file]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    folder = tmp_path / "file"
    folder.mkdir()
    with pytest.raises(OSError):
        write_atomically(folder, b"content")
    assert list(tmp_path.iterdir()) == [folder]
