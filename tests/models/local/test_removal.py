"""Removing frees what nothing else needs, and nothing that is not ours."""

import shutil
from pathlib import Path

import pytest

from phichat.errors import ModelNotRemovable
from phichat.models.download.cache_diagnostics import diagnose_cache
from phichat.models.download.destination import PART_SUFFIX
from phichat.models.local.links import Link, LinkStore
from phichat.models.local.removal import remove_model
from support.model_folders import at, in_ollama, library, on_hub


def removed(home: Path, name: str) -> int:
    found = library(home)
    return remove_model(found.resolve_model(name), found)


def test_a_model_of_the_hub_leaves_nothing_behind(tmp_path: Path) -> None:
    on_hub(tmp_path / "hub", "a/b", "x.gguf", b"12345")
    on_hub(tmp_path / "hub", "a/other", "y.gguf", b"1")
    assert removed(tmp_path, "a/b") == 5
    assert [path.name for path in (tmp_path / "hub").iterdir()] == ["models--a--other"]
    assert library(tmp_path).resolve_model("a/other").path.is_file()


def test_what_another_model_of_the_repository_needs_stays(tmp_path: Path) -> None:
    on_hub(tmp_path / "hub", "a/b", "x.gguf", b"12345")
    same = on_hub(tmp_path / "hub", "a/b", "same.gguf", b"12345")
    note = on_hub(tmp_path / "hub", "a/b", "README.md", b"words")
    found = library(tmp_path)
    model = next(model for model in found.models if model.path.name == "same.gguf")
    assert remove_model(model, found) == 0
    assert not same.is_symlink()
    assert removed(tmp_path, "a/b/x.gguf") == 5
    assert note.read_bytes() == b"words"


def test_another_revision_keeps_its_own_file(tmp_path: Path) -> None:
    old = on_hub(tmp_path / "hub", "a/b", "x.gguf", b"old", commit="1" * 40)
    on_hub(tmp_path / "hub", "a/b", "x.gguf", b"newer", commit="2" * 40)
    assert removed(tmp_path, "a/b") == 5
    assert old.read_bytes() == b"old"
    assert library(tmp_path).resolve_model("a/b").path == old


def test_the_same_file_in_two_revisions_goes_from_both(tmp_path: Path) -> None:
    on_hub(tmp_path / "hub", "a/b", "x.gguf", b"12345", commit="1" * 40)
    on_hub(tmp_path / "hub", "a/b", "x.gguf", b"12345", commit="2" * 40)
    assert removed(tmp_path, "a/b") == 5
    assert library(tmp_path).models == ()


def test_a_cache_without_links_is_freed_too(tmp_path: Path) -> None:
    link = on_hub(tmp_path / "hub", "a/b", "x.gguf", b"12345")
    shutil.move(link.resolve(), link)
    assert removed(tmp_path, "a/b") == 5
    assert not list((tmp_path / "hub").iterdir())


def test_a_split_model_goes_whole_and_a_download_too(tmp_path: Path) -> None:
    for part in (1, 2):
        at(tmp_path / "downloads" / f"x-0000{part}-of-00002.gguf", b"12345")
    assert removed(tmp_path, "x") == 10
    assert not list((tmp_path / "downloads").iterdir())


def test_of_a_link_only_the_link_goes(tmp_path: Path) -> None:
    file = at(tmp_path / "my.gguf", b"12345")
    LinkStore(tmp_path / "data" / "links.json").add_link(Link("mine", file, ("ab" * 32,)))
    assert removed(tmp_path, "mine") == 0
    assert file.read_bytes() == b"12345"
    assert library(tmp_path).models == ()


def test_what_others_keep_is_theirs_to_remove(tmp_path: Path) -> None:
    blob = in_ollama(tmp_path / "ollama", "x", "latest", b"1")
    studio = at(tmp_path / "studio" / "a" / "b" / "y.gguf", b"2")
    own = at(tmp_path / "own.gguf", b"3")
    for name, said in (("x", "ollama rm x:latest"), ("a/b", "LM Studio"), (str(own), "your own")):
        with pytest.raises(ModelNotRemovable, match=said):
            removed(tmp_path, name)
    assert all(path.is_file() for path in (blob, studio, own))


def test_the_state_of_the_cache(tmp_path: Path) -> None:
    good = on_hub(tmp_path / "hub", "a/b", "x.gguf", b"12345")
    gone = on_hub(tmp_path / "hub", "a/b", "y.gguf", b"y")
    gone.resolve().unlink()
    blobs = good.resolve().parent
    at(blobs / ("c" * 64 + ".incomplete"), b"123")
    at(blobs / ("d" * 64), b"1234")
    at(tmp_path / "downloads" / "host" / ("x.gguf" + PART_SUFFIX), b"12")
    health = diagnose_cache(tmp_path / "hub", tmp_path / "downloads")
    assert [(part.repository, part.downloaded, part.total) for part in health.partial_downloads] == [
        ("", 2, 0),
        ("a/b", 3, 0),
    ]
    assert health.broken_links == (gone,)
    assert (health.orphaned_blobs, health.orphaned_bytes) == ((blobs / ("d" * 64),), 4)
    assert diagnose_cache(tmp_path / "nothing", tmp_path / "none").partial_downloads == ()
