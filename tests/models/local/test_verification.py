"""Damage is found by `verify` and before the next load."""

import hashlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.errors import ModelFileError
from phichat.models.local.discovery import ModelFile
from phichat.models.local.local_models import LocalModels
from phichat.models.local.verification import LoadVerifier, VerifyResult, verify_model
from support.model_folders import at, in_ollama, library, on_hub
from support.tiny_gguf import write_tiny_llama


class Always:
    def is_set(self) -> bool:
        return True


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny.gguf").read_bytes()


def verified(found: LocalModels, model: ModelFile) -> VerifyResult:
    results = [step for step in verify_model(model, found.hash_cache, CancelToken()) if isinstance(step, VerifyResult)]
    assert len(results) == 1
    return results[0]


def checked(found: LocalModels, model: ModelFile) -> list[float]:
    """The fractions that the check before a load told of."""
    return [*LoadVerifier(model, found.hash_cache).check(CancelToken())]


@pytest.fixture(params=["hub", "ollama", "download"])
def model(request: pytest.FixtureRequest, tmp_path: Path, tiny: bytes) -> Iterator[tuple[LocalModels, ModelFile]]:
    match request.param:
        case "hub":
            on_hub(tmp_path / "hub", "a/b", "x.gguf", tiny)
        case "ollama":
            in_ollama(tmp_path / "ollama", "x", "latest", tiny)
        case _:
            path = at(tmp_path / "downloads" / "x.gguf", tiny)
            library(tmp_path).hash_cache.store(path, hashlib.sha256(tiny).hexdigest())
    found = library(tmp_path)
    yield found, found.models[0]


def damage(path: Path, source: random.Random) -> None:
    """Flip a byte or cut the end off, and set the modification time back."""
    before = path.stat()
    if source.random() < 0.5:
        with path.open("r+b") as file:
            file.seek(source.randrange(before.st_size))
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1 << source.randrange(8)]))
    else:
        os.truncate(path, source.randrange(before.st_size))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_sound_file_is_read_once(model: tuple[LocalModels, ModelFile]) -> None:
    found, file = model
    checked(found, file)
    assert checked(found, file) == []
    assert LoadVerifier(file, found.hash_cache).sha256 == hashlib.sha256(file.path.read_bytes()).hexdigest()
    assert verified(found, file) == VerifyResult(ok=True)


def test_a_cancelled_check_proves_nothing(model: tuple[LocalModels, ModelFile]) -> None:
    found, file = model
    found.hash_cache.invalidate(file.path)
    for _ in LoadVerifier(file, found.hash_cache).check(Always()):
        pass
    assert LoadVerifier(file, found.hash_cache).sha256 == ""
    assert checked(found, file)[-1] == 1.0


def test_planted_damage_is_found_both_ways(model: tuple[LocalModels, ModelFile], tiny: bytes) -> None:
    found, file = model
    checked(found, file)
    source = random.Random(0)
    for _ in range(10):
        damage(file.path, source)
        with pytest.raises(ModelFileError, match="damaged"):
            checked(found, file)
        assert not verified(found, file).ok
        file.path.resolve().write_bytes(tiny)
        checked(found, file)


def test_what_rots_without_a_trace_is_found_by_verify_and_then_by_every_load(
    model: tuple[LocalModels, ModelFile],
) -> None:
    found, file = model
    digest = hashlib.sha256(file.path.read_bytes()).hexdigest()
    with file.path.open("r+b") as opened:
        opened.write(b"X")
    # A disk that gives back other bytes changes no time: the proof still seems to hold.
    found.hash_cache.store(file.path, digest)
    assert checked(found, file) == []
    assert not verified(found, file).ok
    with pytest.raises(ModelFileError):
        checked(found, file)


def test_a_file_of_which_nothing_is_known_is_not_read_for_nothing(tmp_path: Path, tiny: bytes) -> None:
    found = library(tmp_path)
    file = found.resolve_model(str(at(tmp_path / "own.gguf", tiny)))
    assert checked(found, file) == []
    assert LoadVerifier(file, found.hash_cache).sha256 == ""
    first = verified(found, file)
    assert first.ok
    assert hashlib.sha256(tiny).hexdigest() in first.reason
    assert verified(found, file) == VerifyResult(ok=True)
    file.path.write_bytes(tiny[:-1] + b"?")
    with pytest.raises(ModelFileError, match="phichat link"):
        checked(found, file)


def test_a_file_cut_off_before_anybody_knew_it_is_not_taken_for_good(tmp_path: Path, tiny: bytes) -> None:
    found = library(tmp_path)
    file = found.resolve_model(str(at(tmp_path / "own.gguf", tiny[:-4000])))
    result = verified(found, file)
    assert not result.ok
    assert "cut off" in result.reason
    assert found.hash_cache.get_stale(file.path) == ""


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    at(tmp_path / "downloads" / "x-00001-of-00002.gguf", b"one")
    found = library(tmp_path)
    assert verified(found, found.models[0]).reason == "x-00002-of-00002.gguf is missing"


def test_what_the_registry_pins_is_known_in_lm_studios_folder_too(tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        f'[mine]\nrepository = "a/b"\nfile = "x.gguf"\nbytes = 5\nrevision = "{"a" * 40}"\nsha256 = "{"b" * 64}"\n'
    )
    at(tmp_path / "studio" / "a" / "b" / "x.gguf", b"12345")
    found = library(tmp_path)
    with pytest.raises(ModelFileError, match="download it there again"):
        checked(found, found.resolve_model("mine"))
