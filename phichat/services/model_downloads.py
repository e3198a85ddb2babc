"""Downloads of models, for every front end: plan, facts to confirm, progress, result."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.cancel import CancelToken
from phichat.errors import (
    AmbiguousModelError,
    EngineError,
    HubUnreachable,
    ModelDoesNotFit,
    ModelFileError,
    ModelNotInstalled,
    UsageError,
)
from phichat.paths import expand_user
from phichat.services.app_context import AppContext
from phichat.units import format_size

if TYPE_CHECKING:
    from phichat.gguf.header import GgufHeader
    from phichat.models.download.model_download import ModelDownload
    from phichat.models.download.plan import DownloadPlan
    from phichat.models.download.progress import PullProgress
    from phichat.models.local.discovery import ModelFile
    from phichat.models.local.local_models import LocalModels
    from phichat.models.spec import ModelReference
    from phichat.services.fit_service import FitReport


@dataclass(frozen=True, slots=True)
class DownloadFacts:
    """Facts about a download, for the user to confirm. missing_bytes: still to be fetched. problem: a remark on the
    model or its fit, or "". fit: None if it could not be determined. does_not_fit: the error if it does not fit."""

    plan: DownloadPlan
    missing_bytes: int
    is_resumed: bool
    header: GgufHeader | None
    problem: str = ""
    fit: FitReport | None = None
    does_not_fit: ModelDoesNotFit | None = None

    def describe(self) -> list[str]:
        """Return the facts as sentences, without the question that does_not_fit calls for."""
        plan, header = self.plan, self.header
        details = [format_size(plan.size), *((header.quantization, header.architecture) if header else ())]
        details += [f"licence {plan.licence}" if plan.licence else "no licence stated", "gated" * plan.is_gated]
        lines = [f"{plan.name}: {', '.join(part for part in details if part)}."]
        if self.is_resumed:
            done = format_size(plan.size - self.missing_bytes)
            lines.append(f"{done} already downloaded, {format_size(self.missing_bytes)} to go.")
        if self.problem:
            lines.append(self.problem)
        if self.fit and not self.does_not_fit:
            speed = _describe_speed(self.fit.speed.tokens_per_second)
            lines.append(f"It fits this machine with a context of {self.fit.plan.n_ctx:,} tokens{speed}.")
        return lines


@dataclass(frozen=True, slots=True)
class DownloadDone:
    """The model is installed and verified. path: the file to load. files: SHA-256 of each file."""

    name: str
    path: Path
    size: int
    fetched_bytes: int
    files: Mapping[Path, str]


Confirm = Callable[[DownloadFacts], bool]


class ModelDownloads:
    """Downloads with the settings and into the folders of the context."""

    def __init__(self, context: AppContext) -> None:
        self._context, self._paths = context, context.paths
        self._endpoint = context.environment.get("HF_ENDPOINT", "")

    def parse(self, text: str) -> ModelReference:
        """Parse a reference to a model; the path of an existing file comes first. Raises UsageError."""
        from phichat.models.spec import PathSpec, parse_reference

        return PathSpec(text) if expand_user(text).is_file() else parse_reference(text, self._endpoint)

    def download(
        self,
        text: str,
        confirm: Confirm,
        cancel: CancelToken,
        *,
        sha256: str = "",
        allow_http: bool = False,
        is_offline: bool = False,
    ) -> Generator[DownloadPlan | PullProgress | DownloadDone]:
        """Download the model that a reference names, or resume its download.

        confirm: called once with the facts before the content is fetched; False ends the download, as a cancel does,
        without a DownloadDone. sha256: of the file at a URL. Raises PhichatError.
        """
        from phichat.models.local.local_models import LocalModels
        from phichat.models.registry import find_spec
        from phichat.models.spec import RegistryName

        models, reference = LocalModels.from_paths(self._paths), self.parse(text)
        if isinstance(reference, RegistryName) and not reference.quantization:
            spec, installed = find_spec(models.registry, reference.name), _find_verified(models, text)
            if spec and installed and [*installed.files.values()] == [spec.sha256]:
                yield installed
                return
        try:
            plan = self._plan(models, reference, sha256, allow_http=allow_http, is_offline=is_offline)
            yield from self._run(plan, models, confirm, cancel)
        except HubUnreachable:
            if (installed := _find_verified(models, text)) is None:
                raise
            yield installed

    def repair(self, model: ModelFile, models: LocalModels, cancel: CancelToken) -> Iterator[PullProgress]:
        """Download the damaged files of a model of the hub's cache again, of the same revision.

        Raises ModelFileError for a model that is not from there, HubError and DownloadError.
        """
        from phichat.models.download.hub_client import HubClient
        from phichat.models.download.model_download import repair_files
        from phichat.models.download.plan import plan_hub_download
        from phichat.models.hub_layout import repository_folder
        from phichat.models.local.locations import ModelSource
        from phichat.models.local.verification import suggest_fix
        from phichat.models.spec import RepoSpec

        if model.source is not ModelSource.HUB:
            message = f"{model.name} cannot be repaired because it did not come from the hub"
            raise ModelFileError(message, suggest_fix(model))
        snapshots = repository_folder(self._paths.models, model.repository) / "snapshots"
        commit, *file = model.path.relative_to(snapshots).parts
        reference = RepoSpec(model.repository, file="/".join(file), revision=commit)
        plan = plan_hub_download(reference, models.registry, HubClient(endpoint=self._endpoint), self._paths)
        yield from repair_files(plan, self._paths, models.hash_cache, cancel)

    def _plan(
        self, models: LocalModels, reference: ModelReference, sha256: str, *, allow_http: bool, is_offline: bool
    ) -> DownloadPlan:
        from phichat.models.download.hub_client import HubClient
        from phichat.models.download.plan import plan_hub_download, plan_url_download
        from phichat.models.spec import PathSpec, UrlSpec

        if isinstance(reference, PathSpec):
            raise UsageError(f"{reference.path} is a local file", "Use it without a download")
        hub = HubClient(endpoint=self._endpoint, is_offline=is_offline)
        if isinstance(reference, UrlSpec):
            return plan_url_download(reference, hub, self._paths, sha256=sha256, allow_http=allow_http)
        if sha256:
            raise UsageError("--sha256 is for https URLs", "Leave it out: the hub gives the SHA-256 of its files")
        return plan_hub_download(reference, models.registry, hub, self._paths)

    def _run(
        self, plan: DownloadPlan, models: LocalModels, confirm: Confirm, cancel: CancelToken
    ) -> Generator[DownloadPlan | PullProgress | DownloadDone]:
        from phichat.models.download.model_download import ModelDownload

        with ModelDownload(plan, self._paths, models.hash_cache, cancel) as download:
            yield plan
            yield from download.prepare_files()
            if not download.is_complete and not cancel.is_set():
                try:
                    is_confirmed = confirm(self._examine(download, cancel))
                except (ModelDoesNotFit, ModelFileError, AmbiguousModelError):
                    download.discard_new()
                    raise
                if not is_confirmed:
                    download.discard_new()
                    return
                for step in download.fetch_files():
                    if cancel.is_set():
                        return
                    yield step
            if download.is_complete:
                yield DownloadDone(plan.name, download.path, plan.size, download.fetched_bytes, download.sha256)

    def _examine(self, download: ModelDownload, cancel: CancelToken) -> DownloadFacts:
        """Read the header and estimate the fit. Raises StorageError, ModelFileError, AmbiguousModelError."""
        from phichat.engine.planner.offload_plan import require_fit
        from phichat.gguf.header import check_usable
        from phichat.services.fit_service import estimate_header_fit

        download.check_disk_space()
        plan, problem, header, fit, does_not_fit = download.plan, "", None, None, None
        try:
            header = download.fetch_header()
            check_usable(header, download.path)
        except ModelFileError as error:
            # A file with a known hash may be for another program, or for a newer version of phichat.
            if not plan.has_expected_hashes:
                raise
            problem = f"{error.message}. It will not run here as it is."
        try:
            fit = estimate_header_fit(self._context, plan.name, header, cancel) if header else None
            if fit:
                require_fit(fit.plan, plan.name, fit.suggestions)
        except ModelDoesNotFit as error:
            does_not_fit = error
        except EngineError as error:
            problem = f"Could not determine whether it fits ({error.message})."
        return DownloadFacts(plan, download.missing_bytes, download.is_resumed, header, problem, fit, does_not_fit)


def _find_verified(models: LocalModels, text: str) -> DownloadDone | None:
    """Return the installed model of a name if all its files are verified, without asking the hub."""
    from phichat.models.local.locations import ModelSource

    try:
        model = models.resolve_model(text)
    except (ModelNotInstalled, UsageError):
        return None
    files = {}
    for part in model.parts:
        verified = models.hash_cache.get(part.path)
        # The installer of a Python package verified its files.
        files[part.path] = verified.sha256 if verified else part.sha256 * (model.source is ModelSource.PACKAGE)
    return DownloadDone(model.name, model.path, model.size, 0, files) if all(files.values()) else None


def _describe_speed(tokens_per_second: float | None) -> str:
    if not tokens_per_second:
        return ""
    comparison = "slower than" if tokens_per_second < 8 else "at" if tokens_per_second < 30 else "faster than"
    return f", {comparison} reading speed (about {tokens_per_second:.0f} tokens/s)"
