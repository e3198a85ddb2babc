"""A fingerprint changes with the file."""

import os
from pathlib import Path

from phichat.storage.fingerprint import are_unchanged, compute_fingerprint


def test_it_changes_when_the_file_is_written_to_or_removed(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one")
    before = compute_fingerprint(file)
    with file.open("rb") as opened:
        assert compute_fingerprint(opened.fileno()) == before
    assert are_unchanged([(str(file), before)])
    file.write_bytes(b"other")
    os.utime(file, ns=(0, 0))
    assert compute_fingerprint(file) != before
    file.unlink()
    assert compute_fingerprint(file) == ()
    assert not are_unchanged([(str(file), before)])
