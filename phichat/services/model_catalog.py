"""The models a chat offers: what is here, what the registry and the hub have, and bringing one here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from phichat.engine.backend import CancelToken
from phichat.paths import Paths

RUNTIME_OVERHEAD_BYTES = 400_000_000
"""Bytes that a small context and the engine take beside the weights; the planner says it exactly."""
_SEARCH_LIMIT = 12
_RECOMMENDED_MODEL = "phi-4-mini"


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A model that is here, or could be. fits: None when nobody knows. Texts not yet sanitised."""

    name: str
    details: str
    installed: bool
    fits: bool | None = None


def recommend(entries: Sequence[CatalogEntry]) -> CatalogEntry | None:
    """The one to begin with: phi-4-mini where it fits, else the first that does, else the first."""
    available = [offer for offer in entries if not offer.installed]
    recommended = (offer for offer in available if offer.name == _RECOMMENDED_MODEL and offer.fits)
    return next(recommended, None) or next((offer for offer in available if offer.fits), next(iter(available), None))


class ModelCatalog:
    """Looks anew whenever it is asked."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def entries(self) -> Sequence[CatalogEntry]:
        """What is here, and what the registry has beside it. Connects nowhere. Raises ConfigError."""
        from phichat.models.local.local_models import LocalModels

        library = LocalModels.from_paths(self._paths)
        installed = []
        for model in library.models:
            facts = library.get_summary(model)
            details = facts.problem or " · ".join(
                part for part in (_format_size(model.size), facts.quantization, str(model.source)) if part
            )
            installed.append(CatalogEntry(model.name, details, installed=True, fits=self._fits_memory(model.size)))
        names = {offer.name for offer in installed}
        available = [
            CatalogEntry(
                spec.name,
                f"{_format_size(spec.size)} · {spec.summary}" if spec.size else spec.summary,
                installed=False,
                fits=self._fits_memory(spec.size) if spec.size else None,
            )
            for spec in library.registry.values()
            if spec.name not in names
        ]
        return [*installed, *available]

    def search_hub(self, words: str) -> Sequence[CatalogEntry]:
        """What the hub has, the most downloaded first. Raises HubError."""
        from phichat.errors import AmbiguousModelError
        from phichat.models.download.file_selection import select_files
        from phichat.models.download.hub_client import HubClient

        hub = HubClient(is_offline=False)
        hits = hub.search_models(words, _SEARCH_LIMIT)
        listings = hub.fetch_listings([hit.repository for hit in hits])
        entries = []
        for hit in hits:
            details, fits = f"{hit.downloads:,} downloads", None
            if listing := listings.get(hit.repository):
                try:
                    choice = select_files(listing.files, hit.repository)
                except AmbiguousModelError:
                    pass
                else:
                    details, fits = (
                        f"{_format_size(choice.size)} · {choice.quantization} · {details}",
                        self._fits_memory(choice.size),
                    )
            entries.append(CatalogEntry(hit.repository, details, installed=False, fits=fits))
        return entries

    def download_model(self, name: str, cancel: CancelToken) -> Iterator[str]:
        """Download a model, saying how far it is. Raises PhichatError kinds."""
        import os

        from phichat.errors import UsageError
        from phichat.gguf.header import check_usable
        from phichat.models.download.hub_client import HubClient
        from phichat.models.download.model_download import ModelDownload, VerifyProgress
        from phichat.models.download.plan import plan_hub_download
        from phichat.models.local.local_models import LocalModels
        from phichat.models.spec import PathSpec, UrlSpec, parse_reference

        library = LocalModels.from_paths(self._paths)
        spec = parse_reference(name, os.environ.get("HF_ENDPOINT", ""))
        if isinstance(spec, (PathSpec, UrlSpec)):
            raise UsageError(f"{name} is no name of the registry or the hub", "Use `phichat pull` for it")
        target = plan_hub_download(spec, library.registry, HubClient(is_offline=False), self._paths)
        with ModelDownload(target, self._paths, library.hash_cache, cancel) as download:
            for step in download.prepare_files():
                if isinstance(step, VerifyProgress):
                    yield f"proving {name} {step.fraction:.0%}"
            if download.is_complete:
                return
            download.check_disk_space()
            check_usable(download.fetch_header(), download.path)
            started_at, missing = monotonic(), download.missing_bytes
            for progress in download.fetch_files():
                if cancel.is_set():
                    return
                if isinstance(progress, VerifyProgress):
                    yield f"proving {name} {progress.fraction:.0%}"
                    continue
                fetched = missing - download.missing_bytes
                speed = fetched / max(0.001, monotonic() - started_at)
                eta = f", {download.missing_bytes / speed / 60:.0f} min left" if speed > 1 else ""
                yield f"pulling {name} {1 - download.missing_bytes / max(1, target.size):.0%}{eta}"

    def _fits_memory(self, size: int) -> bool:
        from phichat.engine.planner.hardware import probe_memory

        return size + RUNTIME_OVERHEAD_BYTES <= probe_memory().available


def _format_size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
