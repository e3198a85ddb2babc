"""Files are replaced in one step."""

import sys
from pathlib import Path

import pytest

from phichat.storage.atomic_write import write_atomically


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
