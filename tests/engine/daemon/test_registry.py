"""Which folder engines are found in, and which names they bear."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.config.settings import EngineOptions
from phichat.engine.daemon.registry import DaemonRegistry

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="its folders have other owners and modes")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's."""
    with tempfile.TemporaryDirectory(prefix="p-") as folder:
        yield Path(folder)


def private(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    return folder


def test_the_users_runtime_folder_comes_first(short: Path) -> None:
    runtime = private(short / "run")
    engines = DaemonRegistry.for_cache(short / "cache", {"XDG_RUNTIME_DIR": str(runtime)})
    assert engines is not None
    assert engines.folder == runtime / "phichat"
    assert engines.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_enter_is_not_used(short: Path) -> None:
    runtime, cache = private(short / "run"), private(short / "c")
    runtime.chmod(0o755)
    at_cache = DaemonRegistry.for_cache(cache, {"XDG_RUNTIME_DIR": str(runtime)})
    assert at_cache is not None
    assert at_cache.folder == cache / "engines"
    at_cache.folder.chmod(0o777)
    elsewhere = DaemonRegistry.for_cache(cache, {})
    assert elsewhere is not None
    assert elsewhere.folder.parent == Path(tempfile.gettempdir())


def test_a_link_is_not_followed(short: Path) -> None:
    cache, other = private(short / "c"), private(short / "other")
    (cache / "engines").symlink_to(other)
    engines = DaemonRegistry.for_cache(cache, {})
    assert engines is not None
    assert engines.folder.parent == Path(tempfile.gettempdir())


def test_paths_too_long_for_a_socket_are_not_used(short: Path) -> None:
    engines = DaemonRegistry.for_cache(short / ("long" * 20), {})
    assert engines is not None
    assert engines.folder.parent == Path(tempfile.gettempdir())


def test_two_homes_share_no_engine_and_a_file_by_two_names_is_one(short: Path) -> None:
    model, link = short / "m.gguf", short / "l.gguf"
    model.write_bytes(b"")
    link.symlink_to(model)
    runtime = {"XDG_RUNTIME_DIR": str(private(short / "run"))}
    here, there = (DaemonRegistry.for_cache(short / name, runtime) for name in ("one", "two"))
    assert here and there
    usual = EngineOptions()
    assert here.make_address(model, usual) == here.make_address(link, usual)
    assert here.make_address(model, usual) != there.make_address(model, usual)
    assert here.make_address(model, usual) != here.make_address(model, EngineOptions(threads=1))


def test_one_at_a_time(short: Path) -> None:
    model = short / "m.gguf"
    model.write_bytes(b"")
    engines = DaemonRegistry.for_cache(short, {})
    assert engines is not None
    address, cancel = engines.make_address(model, EngineOptions()), CancelToken()
    cancel.set()
    with address.lock() as first, address.lock(cancel) as second:
        assert (first, second) == (True, False)
    with address.lock() as again:
        assert again
