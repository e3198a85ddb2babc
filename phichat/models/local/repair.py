"""Making a model of the hub's cache what it has to be again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from phichat.errors import ModelFileError
from phichat.models.download.hub_client import HubClient
from phichat.models.download.model_download import PullProgress, repair_files
from phichat.models.download.plan import plan_hub_download
from phichat.models.local.discovery import ModelFile
from phichat.models.local.hash_cache import CancelSignal, HashCache
from phichat.models.local.locations import ModelSource
from phichat.models.local.verification import suggest_fix
from phichat.models.registry import ModelSpec
from phichat.models.spec import RepoSpec
from phichat.paths import Paths


def repair_model(
    model: ModelFile, registry: Mapping[str, ModelSpec], paths: Paths, hash_cache: HashCache, cancel: CancelSignal
) -> Iterator[PullProgress]:
    """Fetch what is damaged from the hub, of the very revision that is there.

    Raises ModelFileError for a model that is not from there, HubError and DownloadError.
    """
    if model.source is not ModelSource.HUB:
        raise ModelFileError(f"{model.name} cannot be repaired, for it is not from the hub", suggest_fix(model))
    commit, *file = model.path.relative_to(
        paths.models / ("models--" + model.repository.replace("/", "--")) / "snapshots"
    ).parts
    spec = RepoSpec(model.repository, file="/".join(file), revision=commit)
    yield from repair_files(plan_hub_download(spec, registry, HubClient(), paths), paths, hash_cache, cancel)
