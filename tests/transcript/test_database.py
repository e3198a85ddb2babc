"""Old, new and broken files, all of them real."""

import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phichat.errors import TranscriptError
from phichat.transcript.migrations import MIGRATIONS, Migration
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.search import Filters
from phichat.transcript.store import Store

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
SECRET = "xyzzyplugh"
CONVERSATION = ConversationRecord(
    "c",
    f"About {SECRET}",
    NOON,
    NOON,
    (TurnRecord("t", None, NOON, f"{SECRET} asked", f"{SECRET} said", SECRET, SECRET),),
    "t",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "logs.db"


@pytest.mark.parametrize("released", range(1, len(MIGRATIONS) + 1))
def test_a_store_of_every_released_schema_is_brought_up_to_date(path: Path, released: int) -> None:
    old = Store.open(path, MIGRATIONS[:released])
    old.add(CONVERSATION)
    old.close()
    later = Migration("a later one", ("ALTER TABLE turn ADD COLUMN later TEXT",))
    store = Store.open(path, (*MIGRATIONS, later))
    assert store.conversation("c") == CONVERSATION
    assert [hit.turn for hit in store.search("asked", Filters(), 5).hits] == ["t"]
    store.close()
    with sqlite3.connect(path) as plain:
        assert [name for (name,) in plain.execute("SELECT name FROM migration ORDER BY n")][-1] == "a later one"


def test_a_step_that_fails_leaves_the_store_as_it_was(path: Path) -> None:
    Store.open(path).add(CONVERSATION)
    broken = Migration("broken", ("CREATE TABLE extra (n)", "CREATE TABLE extra (n)"))
    with pytest.raises(TranscriptError):
        Store.open(path, (*MIGRATIONS, broken))
    assert Store.open(path).conversation("c") == CONVERSATION


def test_a_store_of_a_newer_schema_is_refused(path: Path) -> None:
    Store.open(path, (*MIGRATIONS, Migration("of tomorrow", ("CREATE TABLE tomorrow (n)",)))).close()
    with pytest.raises(TranscriptError, match="newer phichat"):
        Store.open(path)


@pytest.mark.parametrize(
    "content", [b"Once upon a time, this was no database. " * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_told_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(TranscriptError, match="damaged"):
        Store.open(path)
    assert path.read_bytes() == content


def test_a_store_damaged_in_the_middle_is_told(path: Path) -> None:
    store = Store.open(path)
    store.add(CONVERSATION)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(TranscriptError):
        Store.open(path).conversation("c")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="modes do not bind root")
def test_a_folder_that_cannot_be_written(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    with pytest.raises(TranscriptError, match="cannot be"):
        Store.open(path)


def test_nothing_of_what_is_removed_can_be_read_in_the_files(path: Path) -> None:
    store = Store.open(path)
    for number in range(50):
        turn = TurnRecord(f"t{number}", None, NOON, f"keeper {number}", "stays " * 200)
        store.add(ConversationRecord(f"k{number}", "Keeper", NOON, NOON, (turn,), turn.id))
    store.add(CONVERSATION)
    store.index()
    assert store.search(SECRET, Filters(), 5).hits
    assert store.remove(["c"])
    assert not store.search(SECRET, Filters(), 5).hits
    assert len(store.search("keeper", Filters(), 100).hits) == 50
    for file in path.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()
    with store.database.bare() as connection:
        connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def test_a_backup_is_a_store_of_its_own(path: Path, tmp_path: Path) -> None:
    store = Store.open(path)
    store.add(CONVERSATION)
    target = tmp_path / "copy.db"
    target.write_text("an older backup")
    store.backup(target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "data"]
    assert Store.open(target).conversation("c") == CONVERSATION
    for place in (path, target):  # both are open
        with pytest.raises(TranscriptError, match="in use"):
            store.backup(place)
