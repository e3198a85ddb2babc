"""JSON files: whole or empty."""

from pathlib import Path

import pytest

from phichat.storage.json_file import JsonFile


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    file = JsonFile(tmp_path / "new" / "file.json")
    assert file.load() == {}
    file.save({"one": 1})
    file.store_entry("two", {"value": "ü"})
    assert JsonFile(file.path).load_entries() == {"two": {"value": "ü"}}


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b"1"])
def test_an_unreadable_file_is_empty_and_is_replaced(tmp_path: Path, content: bytes) -> None:
    file = JsonFile(tmp_path / "file.json")
    file.path.write_bytes(content)
    assert file.load() == {}
    file.store_entry("key", {"value": 1})
    assert file.load() == {"key": {"value": 1}}


def test_a_file_that_cannot_be_written_loses_only_the_entry(tmp_path: Path) -> None:
    file = JsonFile(tmp_path)
    file.store_entry("key", {})
    with pytest.raises(OSError):
        file.save({})
