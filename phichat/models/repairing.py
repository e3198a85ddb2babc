"""Making a model of the hub's cache what it has to be again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from phichat.errors import ModelFileError
from phichat.models.checking import next_step
from phichat.models.finding import ModelFile
from phichat.models.hub import Hub
from phichat.models.places import Source
from phichat.models.proofs import Proofs, Stop
from phichat.models.pull import Step, repair
from phichat.models.registry import ModelSpec
from phichat.models.spec import RepoSpec
from phichat.models.target import find
from phichat.paths import Paths


def repair_model(
    model: ModelFile, registry: Mapping[str, ModelSpec], paths: Paths, proofs: Proofs, cancel: Stop
) -> Iterator[Step]:
    """Fetch what is damaged from the hub, of the very revision that is there.

    Raises ModelFileError for a model that is not from there, HubError and DownloadError.
    """
    if model.source is not Source.HUB:
        raise ModelFileError(f"{model.name} cannot be repaired, for it is not from the hub", next_step(model))
    commit, *file = model.path.relative_to(
        paths.models / ("models--" + model.repository.replace("/", "--")) / "snapshots"
    ).parts
    wanted = RepoSpec(model.repository, file="/".join(file), revision=commit)
    yield from repair(find(wanted, registry, Hub(), paths), paths, proofs, cancel)
