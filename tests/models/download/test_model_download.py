"""Downloads through the real library from a server that fails in every way. Small files, the same code."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from phichat.cancel import CancelToken
from phichat.errors import AccessDenied, DownloadError, HashMismatch, HubError, PhichatError, UsageError
from phichat.models.download.hub_client import HubClient
from phichat.models.download.model_download import ModelDownload, repair_files
from phichat.models.download.plan import DownloadPlan, plan_hub_download, plan_url_download
from phichat.models.download.progress import PullProgress
from phichat.models.download.resume_journal import CHUNK_BYTES
from phichat.models.local.hash_cache import HashCache
from phichat.models.spec import RepoSpec, UrlSpec
from phichat.paths import Paths
from support.fake_hub import Fault, Repository, StandIn, http_date, stand_in

NAME, FILE = "someone/model-GGUF", "model-Q4_K_M.gguf"
SIZE = 2 * CHUNK_BYTES + 3_000_001


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(1).randbytes(SIZE)


@pytest.fixture
def server(content: bytes) -> Iterator[StandIn]:
    with stand_in() as running:
        running.repositories[NAME] = Repository({FILE: content, "README.md": b"# Model"})
        yield running


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "config", tmp_path / "data", tmp_path / "cache", tmp_path / "hub")


def target(server: StandIn, paths: Paths, wanted: RepoSpec | None = None) -> DownloadPlan:
    return plan_hub_download(wanted or RepoSpec(NAME), {}, HubClient(endpoint=server.url), paths)


def url_target(server: StandIn, paths: Paths, sha256: str = "") -> DownloadPlan:
    url = f"{server.url}/files/{FILE}"
    return plan_url_download(UrlSpec(url), HubClient(endpoint=server.url), paths, sha256=sha256, allow_http=False)


def pulled(wanted: DownloadPlan, paths: Paths, *, stop_after: int = -1) -> ModelDownload:
    with ModelDownload(wanted, paths, HashCache(paths.hash_cache), CancelToken()) as pull:
        for _ in pull.prepare_files():
            pass
        steps = pull.fetch_files()
        for step in steps:
            if 0 <= stop_after <= step.done_bytes:
                steps.close()  # type: ignore[attr-defined]
                break
    return pull


def found_by_the_library(paths: Paths) -> Path:
    return Path(hf_hub_download(NAME, FILE, cache_dir=paths.models, local_files_only=True))


def leftovers(paths: Paths) -> list[str]:
    return [path.name for path in paths.models.glob("*/blobs/*") if len(path.name) != 64]


def test_a_download_is_proven_and_found_by_the_hubs_own_library(server: StandIn, paths: Paths, content: bytes) -> None:
    pull = pulled(target(server, paths), paths)
    assert (pull.path.read_bytes() == content, pull.fetched_bytes) == (True, SIZE)
    assert found_by_the_library(paths) == pull.path
    assert leftovers(paths) == []
    assert HashCache(paths.hash_cache).get(pull.path) is not None
    again = pulled(target(server, paths), paths)
    assert (again.fetched_bytes, again.sha256) == (0, pull.sha256)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset", after=CHUNK_BYTES + 5),
        Fault("reset"),
        Fault("close", after=100_000),
        Fault("status", status=503),
        Fault("status", status=429, retry_after="0"),
        Fault("status", status=429, retry_after=http_date(-5)),
        Fault("expired"),
        Fault("wrong-range"),
        Fault("html"),
        Fault("no-length", after=70_000),
        Fault("no-length"),
    ],
    ids=lambda fault: f"{fault.kind}-{fault.status if fault.kind == 'status' else fault.after}",
)
def test_what_came_is_not_fetched_again(server: StandIn, paths: Paths, content: bytes, fault: Fault) -> None:
    server.faults.extend([None, fault] if fault.kind == "expired" else [fault])
    pull = pulled(target(server, paths), paths)
    assert pull.path.read_bytes() == content
    assert not server.faults or fault.kind == "expired"
    assert pull.fetched_bytes <= SIZE
    assert leftovers(paths) == []


def test_a_byte_that_flips_on_the_way_is_found_and_fetched_until_two_fetches_agree(
    server: StandIn, paths: Paths, content: bytes
) -> None:
    server.faults.extend([Fault("flip", after=CHUNK_BYTES + 7), None, Fault("flip", after=9)])
    pull = pulled(target(server, paths), paths)
    assert pull.path.read_bytes() == content


def test_a_file_that_is_not_what_was_promised_is_not_kept(server: StandIn, paths: Paths) -> None:
    server.repositories[NAME].claimed[FILE] = "f" * 64
    with pytest.raises(HashMismatch):
        pulled(target(server, paths), paths)
    assert not list(paths.models.rglob("*.gguf"))
    assert leftovers(paths) == []
    assert not list(paths.models.glob("*/blobs/*"))


def test_stopping_keeps_what_came(server: StandIn, paths: Paths, content: bytes) -> None:
    server.rate = 60e6
    first = pulled(target(server, paths), paths, stop_after=SIZE // 2)
    assert not first.path.exists()
    server.rate = 0
    second = pulled(target(server, paths), paths)
    assert second.path.read_bytes() == content
    assert first.fetched_bytes + second.fetched_bytes <= SIZE + 200_000


def test_damage_to_a_partial_file_is_found_by_chunk(server: StandIn, paths: Paths, content: bytes) -> None:
    server.rate = 80e6
    wanted = target(server, paths)
    pulled(wanted, paths, stop_after=2 * CHUNK_BYTES + 100_000)
    flip(wanted.files[0].destination.partial_file, 1000)
    server.rate = 0
    second = pulled(target(server, paths), paths)
    assert second.path.read_bytes() == content
    assert second.fetched_bytes <= CHUNK_BYTES + 3_000_001


@pytest.mark.parametrize("damage", ["flip", "truncate", "both ends", "no chunk hashes"])
def test_a_repair_fetches_what_is_damaged(server: StandIn, paths: Paths, content: bytes, damage: str) -> None:
    proofs = HashCache(paths.hash_cache)
    path = pulled(target(server, paths), paths).path.resolve()
    match damage:
        case "flip" | "no chunk hashes":
            flip(path, CHUNK_BYTES + 1)
        case "truncate":
            with path.open("r+b") as file:
                file.truncate(2 * CHUNK_BYTES + 5)
        case _:
            flip(path, 0)
            flip(path, SIZE - 1)
    if damage == "no chunk hashes":
        shutil.rmtree(paths.cache / "chunks")
    server.sent = 0
    steps: list[PullProgress] = list(repair_files(target(server, paths), paths, proofs, CancelToken()))
    assert steps
    assert path.read_bytes() == content
    assert found_by_the_library(paths).read_bytes() == content
    least = {"flip": CHUNK_BYTES, "truncate": 3_000_001, "both ends": CHUNK_BYTES + 3_000_001, "no chunk hashes": SIZE}[
        damage
    ]
    assert server.sent <= least
    assert leftovers(paths) == []


def test_a_repair_that_fails_leaves_no_file_that_looks_good(server: StandIn, paths: Paths) -> None:
    pull = pulled(target(server, paths), paths)
    flip(pull.path.resolve(), 5)
    wanted = target(server, paths)
    server.repositories.clear()
    with pytest.raises(PhichatError):
        list(repair_files(wanted, paths, HashCache(paths.hash_cache), CancelToken()))
    assert not pull.path.exists()


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 255]))


def test_a_server_that_knows_no_ranges(server: StandIn, paths: Paths, content: bytes) -> None:
    server.knows_ranges = False
    server.faults.append(Fault("reset", after=CHUNK_BYTES + 100))
    pull = pulled(target(server, paths), paths)
    assert pull.path.read_bytes() == content


def test_a_gated_repository_wants_a_token_which_stays_with_the_hub(
    server: StandIn, paths: Paths, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.repositories[NAME].gated = True
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(AccessDenied, match="gated") as told:
        pulled(target(server, paths), paths)
    assert "hf auth login" in told.value.next_step
    assert f"{server.url}/{NAME}" in told.value.next_step
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(AccessDenied, match="no access"):
        pulled(target(server, paths), paths)
    monkeypatch.setenv("HF_TOKEN", server.token)
    assert pulled(target(server, paths), paths).path.read_bytes() == content
    assert server.authorized
    assert not any(path.startswith("/cdn") for path in server.authorized)


def test_a_repository_that_is_not_there(server: StandIn, paths: Paths) -> None:
    with pytest.raises(HubError, match="no repository no/such"):
        target(server, paths, RepoSpec("no/such"))
    with pytest.raises(HubError, match="no such revision"):
        target(server, paths, RepoSpec(NAME, revision="v9"))


@pytest.mark.parametrize("name", ["../../../x-Q4_K_M.gguf", "/tmp/x-Q4_K_M.gguf", "a\\..\\x-Q4_K_M.gguf"])
def test_a_hub_that_names_a_file_outside_of_the_cache_is_refused(server: StandIn, paths: Paths, name: str) -> None:
    server.repositories[NAME].files = {name: b"x"}
    with pytest.raises(HubError, match="unsafe path"):
        target(server, paths)


def test_the_hub_is_asked_again_when_it_is_busy(server: StandIn, paths: Paths) -> None:
    server.api_faults.extend([Fault("status", status=503), Fault("status", status=429, retry_after="0")])
    assert target(server, paths).size == SIZE


def test_a_split_model_is_pulled_whole(server: StandIn, paths: Paths, content: bytes) -> None:
    parts = {f"m-Q8_0-{part:05d}-of-00002.gguf": content[: 1000 * part] for part in (1, 2)}
    server.repositories[NAME].files.update(parts)
    pull = pulled(target(server, paths, RepoSpec(NAME, "Q8_0")), paths)
    assert pull.path.name == "m-Q8_0-00001-of-00002.gguf"
    assert {path.name: path.read_bytes() for path in pull.sha256} == parts


def test_a_small_file_that_git_keeps_is_proven_by_its_name_in_git(
    server: StandIn, paths: Paths, content: bytes
) -> None:
    server.repositories[NAME] = Repository({FILE: content[:5000]}, lfs=False)
    assert pulled(target(server, paths), paths).path.read_bytes() == content[:5000]
    shutil.rmtree(paths.models)
    server.faults.append(Fault("flip", after=3))
    with pytest.raises(HashMismatch):
        pulled(target(server, paths), paths)


def test_a_plain_address_is_trusted_once_and_resumed_while_it_is_the_same(
    server: StandIn, paths: Paths, content: bytes
) -> None:
    server.plain[FILE], server.etags[FILE] = content, '"one"'
    server.rate = 60e6
    wanted = url_target(server, paths)
    first = pulled(wanted, paths, stop_after=SIZE // 2)
    server.rate = 0
    second = pulled(url_target(server, paths), paths)
    assert second.path.read_bytes() == content
    assert first.fetched_bytes + second.fetched_bytes <= SIZE + 200_000
    assert second.path.is_relative_to(paths.downloads)
    assert [path.name for path in paths.downloads.rglob("*") if path.is_file()] == [FILE]
    assert pulled(url_target(server, paths), paths).fetched_bytes == 0


def test_a_plain_file_that_changes_meanwhile_is_begun_anew(server: StandIn, paths: Paths, content: bytes) -> None:
    server.plain[FILE], server.etags[FILE], server.rate = content, '"one"', 60e6
    wanted = url_target(server, paths)
    pulled(wanted, paths, stop_after=SIZE // 2)
    server.plain[FILE], server.etags[FILE], server.rate = content[::-1], '"two"', 0
    with pytest.raises(DownloadError, match="changed on the server"):
        pulled(wanted, paths)
    assert pulled(url_target(server, paths), paths).path.read_bytes() == content[::-1]


def test_a_plain_address_with_a_hash_is_proven(server: StandIn, paths: Paths, content: bytes) -> None:
    server.plain[FILE] = content
    with pytest.raises(HashMismatch):
        pulled(url_target(server, paths, "e" * 64), paths)
    assert pulled(url_target(server, paths, server.sha256(content)), paths).path.exists()


@pytest.mark.parametrize(
    ("url", "kept_as"),
    [
        ("https://example.com/a/%2e%2e/..%2f..%2fx.gguf", "example.com/a/_/_.._x.gguf"),
        ("https://example.com/con/nul.gguf", "example.com/_con/_nul.gguf"),
        ("https://user:secret@example.com:8443/m.gguf", "example.com_8443/m.gguf"),
        ("https://example.com/C:\\x.gguf", "example.com/C__x.gguf"),
    ],
)
def test_no_address_leads_out_of_the_folder(paths: Paths, url: str, kept_as: str) -> None:
    from phichat.models.download.destination import url_destination

    assert url_destination(paths, url).path == paths.downloads / kept_as


def test_an_address_that_is_not_encrypted_has_to_be_allowed(server: StandIn, paths: Paths) -> None:
    with pytest.raises(UsageError, match="not encrypted"):
        plan_url_download(UrlSpec("http://example.com/x.gguf"), HubClient(), paths, sha256="", allow_http=False)
