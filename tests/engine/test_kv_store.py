"""The folder of KV states: what goes when, without anybody opening a file."""

import os
import time
from pathlib import Path

import pytest

from phichat.engine.kv_store import (
    COMPLETE_SUFFIX,
    PARTIAL_SUFFIX,
    RESTORING_SUFFIX,
    TOMBSTONE_SUFFIX,
    KvStore,
    encode_conversation_id,
)

KEY = "0123456789abcdef" * 4


def kept(
    folder: KvStore, owner: str, seconds: float, size: int, *, days_old: float = 0, kind: str = COMPLETE_SUFFIX
) -> Path:
    path = folder.make_partial_path(KEY, owner, seconds).with_suffix(kind)
    path.write_bytes(b"x" * size)
    then = time.time() - days_old * 86_400
    os.utime(path, (then, then))
    return path


def test_a_folder_that_is_not_there_is_empty_and_stays_so(tmp_path: Path) -> None:
    folder = KvStore(tmp_path / "states")
    folder.delete_conversation("abc")
    folder.remove_stale()
    assert (folder.size, folder.list_files(), folder.evict(10)) == (0, [], True)
    assert not folder.path.exists()


def test_what_saves_least_per_byte_goes_first(tmp_path: Path) -> None:
    folder = KvStore(tmp_path, budget=1000)
    cheap = kept(folder, "cheap", seconds=1, size=300)
    dear = kept(folder, "dear", seconds=9, size=300)
    large = kept(folder, "large", seconds=1.5, size=390)
    assert folder.evict(300)
    assert not cheap.exists() or not large.exists()
    assert dear.exists()
    assert folder.size + 300 <= 1000


def test_what_nobody_used_for_long_goes_before_what_was_used_today(tmp_path: Path) -> None:
    folder = KvStore(tmp_path, budget=1000)
    old = kept(folder, "old", seconds=5, size=500, days_old=30)
    new = kept(folder, "new", seconds=2, size=500)
    assert folder.evict(100)
    assert (old.exists(), new.exists()) == (False, True)


def test_what_is_replaced_goes_before_anything_else(tmp_path: Path) -> None:
    folder = KvStore(tmp_path, budget=1000)
    replaced = kept(folder, "a", seconds=50, size=500)
    other = kept(folder, "b", seconds=1, size=500)
    assert folder.evict(100, evict_first=[replaced])
    assert (replaced.exists(), other.exists()) == (False, True)


def test_what_is_larger_than_the_budget_takes_nothing_away(tmp_path: Path) -> None:
    folder = KvStore(tmp_path, budget=1000)
    other = kept(folder, "b", seconds=1, size=900)
    assert not folder.evict(1001)
    assert other.exists()


def test_what_others_are_writing_counts_and_stays(tmp_path: Path) -> None:
    folder = KvStore(tmp_path, budget=1000)
    kept(folder, "b", seconds=1, size=900, kind=PARTIAL_SUFFIX)
    assert not folder.evict(200)
    assert folder.size == 900


def test_a_forgotten_conversation_leaves_nothing_and_the_others_stay(tmp_path: Path) -> None:
    folder = KvStore(tmp_path)
    gone = [kept(folder, "a", 1, 10, kind=kind) for kind in (COMPLETE_SUFFIX, PARTIAL_SUFFIX, RESTORING_SUFFIX)]
    others = [kept(folder, "ab", 1, 10), kept(folder, encode_conversation_id("no id"), 1, 10)]
    before = time.time_ns()
    folder.delete_conversation("a")
    assert not any(path.exists() for path in gone)
    assert all(path.exists() for path in others)
    assert folder.was_deleted_since("a", before)
    assert not folder.was_deleted_since("a", time.time_ns() + 1)
    assert not folder.was_deleted_since("ab", before)


@pytest.mark.parametrize("id_", ["", "1m7ytzwnh3fb70", "../../etc/passwd", "A b", "x" * 400, "\udc80", "a-b", "*"])
def test_any_id_has_a_mark_that_a_file_name_can_hold(tmp_path: Path, id_: str) -> None:
    folder = KvStore(tmp_path)
    path = kept(folder, encode_conversation_id(id_) or "0", 1, 1)
    assert path.parent == tmp_path
    folder.delete_conversation(id_)
    assert path.exists() == (not id_)


def test_what_died_is_swept_and_what_lives_is_not(tmp_path: Path) -> None:
    folder = KvStore(tmp_path)
    dead = [kept(folder, "a", 1, 1, days_old=1, kind=kind) for kind in (PARTIAL_SUFFIX, RESTORING_SUFFIX)]
    alive = [kept(folder, "a", 1, 1, kind=kind) for kind in (PARTIAL_SUFFIX, RESTORING_SUFFIX)]
    states = [kept(folder, "a", 1, 1, days_old=days) for days in (0, 400)]
    foreign = tmp_path / "notes.txt"
    foreign.touch()
    folder.delete_conversation("b")
    folder.remove_stale()
    assert not any(path.exists() for path in dead)
    assert all(path.exists() for path in (*alive, *states, foreign, tmp_path / f"b{TOMBSTONE_SUFFIX}"))


def test_without_a_setting_the_budget_is_a_small_part_of_the_disk(tmp_path: Path) -> None:
    folder = KvStore(tmp_path / "not" / "there")
    assert 0 < folder.budget <= 4_000_000_000
