"""Proofs: they hold for a file as it was, and no longer."""

import hashlib
import os
import sys
from pathlib import Path
from threading import Thread

import pytest

from phichat.cancel import CancelToken
from phichat.errors import ModelFileError
from phichat.models.local.hash_cache import HashCache, hash_file


def digest_of(path: Path) -> str:
    steps = [*hash_file(path, CancelToken())]
    fractions = [fraction for fraction, _ in steps]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert not any(digest for _, digest in steps[:-1])
    return steps[-1][1]


@pytest.fixture
def proofs(tmp_path: Path) -> HashCache:
    return HashCache(tmp_path / "proofs")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_000))
    return path


def test_the_hash_is_the_files(file: Path) -> None:
    assert digest_of(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_cancelled_reading_proves_nothing(file: Path) -> None:
    cancel = CancelToken()
    cancel.set()
    assert [digest for _, digest in hash_file(file, cancel)] == [""]


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        digest_of(tmp_path / "none")


def test_what_was_proven_is_known_also_through_a_link(proofs: HashCache, file: Path, tmp_path: Path) -> None:
    proofs.store(file, "ab" * 32)
    link = tmp_path / "link"
    link.symlink_to(file)
    for path in (file, link):
        proof = proofs.get(path)
        assert proof is not None
        assert proof.sha256 == "ab" * 32
        assert proof.verified_at.endswith("Z")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no time of status change")
def test_a_flipped_byte_is_noticed_also_when_the_time_is_set_back(proofs: HashCache, file: Path) -> None:
    proofs.store(file, "ab" * 32)
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(1000)
        opened.write(b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert proofs.get(file) is None
    assert proofs.get_stale(file) == "ab" * 32


def test_a_replaced_a_doubted_and_a_forgotten_file_are_not_proven(
    proofs: HashCache, file: Path, tmp_path: Path
) -> None:
    proofs.store(file, "ab" * 32)
    other = tmp_path / "other"
    other.write_bytes(file.read_bytes())
    other.replace(file)
    assert proofs.get(file) is None
    proofs.store(file, "cd" * 32)
    proofs.invalidate(file)
    assert (proofs.get(file), proofs.get_stale(file)) == (None, "cd" * 32)
    proofs.store(file, "cd" * 32)
    proofs.remove_entry(file)
    assert (proofs.get(file), proofs.get_stale(file)) == (None, "")


def test_writing_at_once_loses_no_proof(proofs: HashCache, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(20)]
    for path in paths:
        path.write_bytes(b"x")
    threads = [Thread(target=proofs.store, args=(path, "ab" * 32)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(proofs.get(path) for path in paths)


def test_damaged_proofs_prove_nothing(proofs: HashCache, file: Path, tmp_path: Path) -> None:
    proofs.store(file, "ab" * 32)
    (entry,) = (tmp_path / "proofs").iterdir()
    for content in (b"", b"[]", b"{}", b"\xff", b'{"key": 1}'):
        entry.write_bytes(content)
        assert proofs.get(file) is None
        assert proofs.get_stale(file) == ""


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="modes do not bind root")
def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, file: Path) -> None:
    tmp_path.chmod(0o500)
    HashCache(tmp_path / "proofs").store(file, "ab" * 32)
    assert HashCache(tmp_path / "proofs").get(file) is None
