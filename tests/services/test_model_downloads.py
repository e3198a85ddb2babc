"""One download service for every front end: facts first, then a yes, then the file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from phichat.cancel import CancelToken
from phichat.config.settings import Config
from phichat.errors import HubUnreachable, UsageError
from phichat.models.download.plan import DownloadPlan
from phichat.models.download.progress import DownloadProgress
from phichat.paths import Paths
from phichat.services.app_context import AppContext
from phichat.services.model_catalog import CatalogEntry, recommend
from phichat.services.model_downloads import DownloadDone, DownloadFacts, ModelDownloads
from support.fake_hub import Repository, StandIn, stand_in
from support.tiny_gguf import write_tiny_llama

NAME, FILE = "someone/tiny-GGUF", "tiny-Q4_K_M.gguf"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StandIn]:
    with stand_in() as running:
        tiny = write_tiny_llama(tmp_path / "tiny.gguf")
        running.repositories[NAME] = Repository({FILE: tiny.read_bytes() + os.urandom(20_000_000)})
        yield running


@pytest.fixture
def context(tmp_path: Path, server: StandIn) -> AppContext:
    paths = Paths(tmp_path / "config", tmp_path / "data", tmp_path / "cache", tmp_path / "hub")
    return AppContext(Config(), paths, {"HF_ENDPOINT": server.url})


def test_the_facts_are_confirmed_before_the_content_is_fetched(context: AppContext, server: StandIn) -> None:
    asked: list[DownloadFacts] = []

    def confirm(facts: DownloadFacts) -> bool:
        asked.append(facts)
        assert server.sent < facts.plan.size
        return True

    events = [*ModelDownloads(context).download(NAME, confirm, CancelToken())]
    (facts,) = asked
    assert "licence mit" in facts.describe()[0]
    assert "fits this machine" in facts.describe()[-1]
    assert facts.fit is not None
    assert facts.does_not_fit is None
    done = events[-1]
    assert isinstance(events[0], DownloadPlan)
    assert isinstance(done, DownloadDone)
    assert done.fetched_bytes == done.size == done.path.stat().st_size
    assert done.files[done.path] == server.sha256(server.repositories[NAME].files[FILE])
    again = [*ModelDownloads(context).download(NAME, confirm, CancelToken())][-1]
    assert isinstance(again, DownloadDone)
    assert (again.fetched_bytes, len(asked)) == (0, 1)


def test_a_no_leaves_nothing_and_a_cancel_leaves_what_came(context: AppContext, server: StandIn) -> None:
    events = [*ModelDownloads(context).download(NAME, lambda facts: False, CancelToken())]
    assert not any(isinstance(event, DownloadDone) for event in events)
    assert not [*context.paths.models.glob("*/blobs/*")]
    server.rate, cancel = 20e6, CancelToken()
    for event in ModelDownloads(context).download(NAME, lambda facts: True, cancel):
        assert not isinstance(event, DownloadDone)
        if isinstance(event, DownloadProgress) and event.fetched_bytes > 4_000_000:
            cancel.set()
    server.rate = 0
    done = [*ModelDownloads(context).download(NAME, lambda facts: facts.is_resumed, CancelToken())][-1]
    assert isinstance(done, DownloadDone)
    assert 0 < done.fetched_bytes < done.size


def test_without_the_hub_an_installed_model_is_reported(context: AppContext) -> None:
    unreachable = AppContext(Config(), context.paths, {"HF_ENDPOINT": "http://127.0.0.1:9"})
    with pytest.raises(HubUnreachable):
        [*ModelDownloads(unreachable).download(NAME, lambda facts: True, CancelToken())]
    [*ModelDownloads(context).download(NAME, lambda facts: True, CancelToken())]
    (done,) = ModelDownloads(unreachable).download(NAME, lambda facts: True, CancelToken())
    assert isinstance(done, DownloadDone)
    assert done.fetched_bytes == 0
    with pytest.raises(UsageError):
        [*ModelDownloads(context).download("./x.gguf", lambda facts: True, CancelToken())]


def test_the_model_to_begin_with_is_one_that_fits() -> None:
    installed = CatalogEntry("phi-2", installed=True, fits=True)
    large, small, best = (
        CatalogEntry("phi-4", installed=False, fits=False),
        CatalogEntry("phi-3-mini", installed=False, fits=True),
        CatalogEntry("phi-4-mini", installed=False, fits=True),
    )
    assert recommend([installed, large, small, best]) is best
    assert recommend([installed, large, small]) is small
    assert recommend([installed, large]) is large
    assert recommend([installed]) is None
