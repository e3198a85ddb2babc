"""The catalogue of models: installed ones, those of the registry, and those of the hub, and which of them fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from phichat.cancel import CancelToken
from phichat.services.app_context import AppContext
from phichat.units import format_size

if TYPE_CHECKING:
    from phichat.gguf.header import GgufHeader
    from phichat.models.local.discovery import ModelFile
    from phichat.models.local.local_models import LocalModels
    from phichat.models.local.usage_log import GenerationSpeed
    from phichat.models.registry import ModelSpec
    from phichat.services.model_downloads import Confirm

_RUNTIME_OVERHEAD_BYTES = 400_000_000
"""Memory of the engine and a small context, besides the weights; the planner computes it exactly."""
_RECOMMENDED_MODEL = "phi-4-mini"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that is installed or can be downloaded. Texts are "" and numbers 0 or None where unknown, and are not
    sanitised.

    fits: by its size and the memory that is free now. speed: measured here. size: bytes. repository, file, downloads,
    likes, is_gated: on the hub. problem: why it cannot chat; is_damaged: because of the file itself.
    """

    name: str
    installed: bool
    size: int = 0
    fits: bool | None = None
    quantization: str = ""
    architecture: str = ""
    context_length: int = 0
    licence: str = ""
    summary: str = ""
    source: str = ""
    path: str = ""
    aliases: tuple[str, ...] = ()
    sha256: str | None = None
    verified_at: str | None = None
    last_used_at: str | None = None
    speed: GenerationSpeed | None = None
    problem: str = ""
    is_damaged: bool = False
    file: str = ""
    is_gated: bool | None = None
    downloads: int = 0
    likes: int = 0

    @property
    def details(self) -> str:
        """One line on the model."""
        source = "built in" if self.source == "package" else self.source
        downloads = f"{self.downloads:,} downloads" if self.downloads else ""
        size = format_size(self.size) if self.size else ""
        parts = (size, self.quantization, source, downloads, self.summary)
        return self.problem or " · ".join(part for part in parts if part)


def recommend(entries: Sequence[CatalogEntry]) -> CatalogEntry | None:
    """Return the model to download first: phi-4-mini if it fits, else the first that fits, else the first."""
    available = [entry for entry in entries if not entry.installed]
    fitting = sorted((entry for entry in available if entry.fits), key=lambda entry: entry.name != _RECOMMENDED_MODEL)
    return next(iter((*fitting, *available)), None)


class ModelCatalog:
    """Reads folders and asks the hub anew at every call."""

    def __init__(self, context: AppContext) -> None:
        self._context, self._paths = context, context.paths

    def entries(self) -> Sequence[CatalogEntry]:
        """Return the installed models, then the others of the registry. Makes no connection. Raises ConfigError."""
        from phichat.models.local.local_models import LocalModels

        models = LocalModels.from_paths(self._paths)
        installed = [self.installed_entry(model, models) for model in models.models]
        names = {entry.name for entry in installed}
        return [*installed, *(_spec_entry(spec) for spec in models.registry.values() if spec.name not in names)]

    def installed_entry(self, model: ModelFile, models: LocalModels) -> CatalogEntry:
        """Return the entry of one installed model."""
        summary, verified, size = models.get_summary(model), models.hash_cache.get(model.path), model.size
        return CatalogEntry(
            model.name,
            installed=True,
            size=size,
            fits=_fits_memory(size),
            quantization=summary.quantization,
            architecture=summary.architecture,
            context_length=summary.context_length,
            licence=model.spec.licence if model.spec else "",
            source=model.source,
            path=str(model.path),
            aliases=model.aliases,
            sha256=verified.sha256 if verified else model.parts[0].sha256 or None,
            verified_at=verified.verified_at if verified else None,
            last_used_at=models.usage_log.last_used_at(model.path),
            speed=models.usage_log.last_speed(model.path),
            problem=summary.problem,
            is_damaged=summary.damaged,
        )

    def search_hub(self, query: str, limit: int = 12, *, is_offline: bool = False) -> Sequence[CatalogEntry]:
        """Return repositories of the hub, most downloaded first, each with the file that a pull takes.

        Raises HubError.
        """
        from phichat.errors import AmbiguousModelError
        from phichat.models.download.file_selection import select_files
        from phichat.models.download.hub_client import HubClient

        hub = HubClient(is_offline=is_offline)
        hits = hub.search_models(query, limit)
        listings = hub.fetch_listings([hit.repository for hit in hits])
        entries = []
        for hit in hits:
            entry = CatalogEntry(hit.repository, installed=False, downloads=hit.downloads, likes=hit.likes)
            if listing := listings.get(hit.repository):
                entry = replace(entry, licence=listing.licence, is_gated=listing.is_gated)
                with suppress(AmbiguousModelError):
                    choice = select_files(listing.files, hit.repository)
                    file, size, fits = choice.parts[0].path, choice.size, _fits_memory(choice.size)
                    entry = replace(entry, file=file, quantization=choice.quantization, size=size, fits=fits)
            entries.append(entry)
        return entries

    def download_model(self, name: str, confirm: Confirm, cancel: CancelToken) -> Iterator[str]:
        """Download a model, yielding a line on the progress. Raises PhichatError.

        confirm: called once with the facts, in the thread of the caller; False ends the download.
        """
        from phichat.models.download.progress import DownloadProgress, RateMeter, VerifyProgress
        from phichat.services.model_downloads import ModelDownloads

        meter = RateMeter()
        for event in ModelDownloads(self._context).download(name, confirm, cancel):
            if isinstance(event, VerifyProgress):
                yield f"verifying {name} {event.fraction:.0%}"
            elif isinstance(event, DownloadProgress):
                yield f"downloading {name} {event.fraction:.0%}{meter.update(event)}"

    def read_remote_header(self, reference: str) -> GgufHeader:
        """Return the header of a model that is not installed. Raises PhichatError."""
        from phichat.models.download.hub_client import HubClient
        from phichat.models.download.plan import read_remote_header
        from phichat.models.registry import read_registry

        return read_remote_header(reference, read_registry(self._paths.user_registry), HubClient(), self._paths)


def _spec_entry(spec: ModelSpec) -> CatalogEntry:
    return CatalogEntry(
        spec.name,
        installed=False,
        size=spec.size,
        fits=_fits_memory(spec.size) if spec.size else None,
        quantization=spec.quantization,
        context_length=spec.context_length,
        licence=spec.licence,
        summary=spec.summary,
        aliases=spec.aliases,
    )


def _fits_memory(size: int) -> bool:
    from phichat.engine.planner.hardware import probe_memory

    return size + _RUNTIME_OVERHEAD_BYTES <= probe_memory().available
