"""The lock excludes other holders, those that use the filelock package too."""

from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.storage.file_lock import lock_file


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    cancel = CancelToken()
    cancel.set()
    path = tmp_path / "lock"
    with lock_file(path, 0) as first, lock_file(path, 60, cancel) as second, lock_file(path, 0.05) as third:
        assert (first, second, third) == (True, False, False)
    with lock_file(path, 0) as again:
        assert again


def test_the_filelock_package_is_excluded_and_excludes(tmp_path: Path) -> None:
    filelock = pytest.importorskip("filelock")
    with lock_file(tmp_path / "lock", 0), pytest.raises(filelock.Timeout):
        filelock.FileLock(tmp_path / "lock", timeout=0).acquire()
    with filelock.FileLock(tmp_path / "lock", timeout=0), lock_file(tmp_path / "lock", 0) as is_locked:
        assert not is_locked


def test_a_lock_file_removed_by_its_holder_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock_file(path, 0):
        path.unlink()
        with lock_file(path, 0) as is_locked:
            assert is_locked


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError), lock_file(tmp_path / "none" / "lock", 0):
        pass
