"""Old, new and broken files, all of them real."""

import contextlib
import os
import sqlite3
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from phichat.errors import TranscriptError
from phichat.transcript.migrations import MIGRATIONS, Migration, migrate_schema
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.transcript.search import SearchFilters
from phichat.transcript.store import TranscriptStore

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
    old = TranscriptStore.open_file(path, MIGRATIONS[:released])
    old.add_conversation(CONVERSATION)
    old.close()
    later = Migration("a later one", ("ALTER TABLE turn ADD COLUMN later TEXT",))
    store = TranscriptStore.open_file(path, (*MIGRATIONS, later))
    assert store.get_conversation("c") == CONVERSATION
    assert [hit.turn for hit in store.search_turns("asked", SearchFilters(), 5).hits] == ["t"]
    store.close()
    with sqlite3.connect(path) as plain:
        assert [name for (name,) in plain.execute("SELECT name FROM migration ORDER BY n")][-1] == "a later one"


def test_a_step_that_fails_leaves_the_store_as_it_was(path: Path) -> None:
    TranscriptStore.open_file(path).add_conversation(CONVERSATION)
    broken = Migration("broken", ("CREATE TABLE extra (n)", "CREATE TABLE extra (n)"))
    with pytest.raises(TranscriptError):
        TranscriptStore.open_file(path, (*MIGRATIONS, broken))
    assert TranscriptStore.open_file(path).get_conversation("c") == CONVERSATION


def test_a_store_of_a_newer_schema_is_refused(path: Path) -> None:
    TranscriptStore.open_file(path, (*MIGRATIONS, Migration("of tomorrow", ("CREATE TABLE tomorrow (n)",)))).close()
    with pytest.raises(TranscriptError, match="newer phichat"):
        TranscriptStore.open_file(path)


@pytest.mark.parametrize(
    "content", [b"Once upon a time, this was no database. " * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_told_and_left_alone(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(TranscriptError, match="damaged"):
        TranscriptStore.open_file(path)
    assert path.read_bytes() == content


def test_a_store_damaged_in_the_middle_is_told(path: Path) -> None:
    store = TranscriptStore.open_file(path)
    store.add_conversation(CONVERSATION)
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(TranscriptError):
        TranscriptStore.open_file(path).get_conversation("c")


modes_bind = pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="modes do not bind root")


@modes_bind
@pytest.mark.parametrize("read_only", ["file", "folder", "both"])
@pytest.mark.parametrize("released", range(1, len(MIGRATIONS) + 1))
def test_a_read_only_store_of_every_released_schema_is_read(path: Path, released: int, read_only: str) -> None:
    old = TranscriptStore.open_file(path, MIGRATIONS[:released])
    old.add_conversation(CONVERSATION)
    old.index_pending_turns()
    old.close()
    if read_only != "folder":
        path.chmod(0o400)
    if read_only != "file":
        path.parent.chmod(0o500)
    store = TranscriptStore.open_file(path)
    assert store.get_conversation("c") == CONVERSATION
    assert [hit.turn for hit in store.search_turns("asked", SearchFilters(), 5).hits] == ["t"]
    with pytest.raises(TranscriptError, match="cannot be written"):
        store.rename_conversation("c", "Another title")
    store.close()
    path.parent.chmod(0o700)


@pytest.mark.parametrize("released", range(1, len(MIGRATIONS) + 1))
def test_a_schema_that_cannot_be_brought_up_to_date_is_left_as_it_is(path: Path, released: int) -> None:
    TranscriptStore.open_file(path, MIGRATIONS[:released]).close()
    read_only = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None)
    with contextlib.closing(read_only) as connection:
        migrate_schema(connection)
        assert connection.execute("SELECT count(*) FROM migration").fetchone() == (released,)


@modes_bind
def test_a_folder_that_cannot_be_written(path: Path) -> None:
    path.parent.mkdir(mode=0o500)
    with pytest.raises(TranscriptError, match="cannot be"):
        TranscriptStore.open_file(path)


def test_nothing_of_what_is_removed_can_be_read_in_the_files(path: Path) -> None:
    store = TranscriptStore.open_file(path)
    for number in range(50):
        turn = TurnRecord(f"t{number}", None, NOON, f"keeper {number}", "stays " * 200)
        store.add_conversation(ConversationRecord(f"k{number}", "Keeper", NOON, NOON, (turn,), turn.id))
    store.add_conversation(CONVERSATION)
    store.index_pending_turns()
    assert store.search_turns(SECRET, SearchFilters(), 5).hits
    assert store.delete_conversations(["c"])
    assert not store.search_turns(SECRET, SearchFilters(), 5).hits
    assert len(store.search_turns("keeper", SearchFilters(), 100).hits) == 50
    for file in path.parent.iterdir():
        assert SECRET.encode() not in file.read_bytes()
    with store.database.autocommit() as connection:
        connection.execute("INSERT INTO words (words, rank) VALUES ('integrity-check', 1)")


def test_a_backup_is_a_store_of_its_own(path: Path, tmp_path: Path) -> None:
    store = TranscriptStore.open_file(path)
    store.add_conversation(CONVERSATION)
    target = tmp_path / "copy.db"
    target.write_text("an older backup")
    store.write_backup(target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.db", "data"]
    assert TranscriptStore.open_file(target).get_conversation("c") == CONVERSATION
    for place in (path, target):  # both are open
        with pytest.raises(TranscriptError, match="in use"):
            store.write_backup(place)
