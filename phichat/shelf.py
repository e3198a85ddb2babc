"""The models a chat offers: what is here, what the registry and the hub have, and bringing one here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from phichat.engine.backend import Cancel
from phichat.paths import Paths

_BESIDE_WEIGHTS = 400_000_000
"""Bytes that a small context and the engine take beside the weights; the planner says it exactly."""
_HITS = 12
_TO_BEGIN_WITH = "phi-4-mini"


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """A model that is here, or could be. fits: None when nobody knows. Texts not yet sanitised."""

    name: str
    about: str
    installed: bool
    fits: bool | None = None


def suggested(offers: Sequence[ModelOffer]) -> ModelOffer | None:
    """The one to begin with: phi-4-mini where it fits, else the first that does, else the first."""
    there = [offer for offer in offers if not offer.installed]
    begin = (offer for offer in there if offer.name == _TO_BEGIN_WITH and offer.fits)
    return next(begin, None) or next((offer for offer in there if offer.fits), next(iter(there), None))


class Shelf:
    """Looks anew whenever it is asked."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def offers(self) -> Sequence[ModelOffer]:
        """What is here, and what the registry has beside it. Connects nowhere. Raises ConfigError."""
        from phichat.models.library import Library

        library = Library.open(self._paths)
        here = []
        for model in library.installed:
            facts = library.facts(model)
            about = facts.problem or " · ".join(
                part for part in (_size(model.size), facts.quantization, str(model.source)) if part
            )
            here.append(ModelOffer(model.name, about, installed=True, fits=self._fits(model.size)))
        names = {offer.name for offer in here}
        there = [
            ModelOffer(
                spec.name,
                f"{_size(spec.size)} · {spec.summary}" if spec.size else spec.summary,
                installed=False,
                fits=self._fits(spec.size) if spec.size else None,
            )
            for spec in library.registry.values()
            if spec.name not in names
        ]
        return [*here, *there]

    def search(self, words: str) -> Sequence[ModelOffer]:
        """What the hub has, the most downloaded first. Raises HubError."""
        from phichat.errors import ModelChoiceError
        from phichat.models.choose import choose
        from phichat.models.hub import Hub

        hub = Hub(is_offline=False)
        hits = hub.search(words, _HITS)
        listings = hub.listings([hit.repository for hit in hits])
        offers = []
        for hit in hits:
            about, fits = f"{hit.downloads:,} downloads", None
            if listing := listings.get(hit.repository):
                try:
                    choice = choose(listing.files, hit.repository)
                except ModelChoiceError:
                    pass
                else:
                    about, fits = f"{_size(choice.size)} · {choice.quantization} · {about}", self._fits(choice.size)
            offers.append(ModelOffer(hit.repository, about, installed=False, fits=fits))
        return offers

    def pull(self, name: str, cancel: Cancel) -> Iterator[str]:
        """Download a model, saying how far it is. Raises PhichatError kinds."""
        import os

        from phichat.errors import UsageError
        from phichat.gguf_header import check_usable
        from phichat.models.hub import Hub
        from phichat.models.library import Library
        from phichat.models.pull import Proving, Pull
        from phichat.models.spec import PathSpec, UrlSpec, parse
        from phichat.models.target import find

        library = Library.open(self._paths)
        wanted = parse(name, os.environ.get("HF_ENDPOINT", ""))
        if isinstance(wanted, (PathSpec, UrlSpec)):
            raise UsageError(f"{name} is no name of the registry or the hub", "use `phichat pull` for it")
        target = find(wanted, library.registry, Hub(is_offline=False), self._paths)
        with Pull(target, self._paths, library.proofs, cancel) as pulling:
            for step in pulling.prepare():
                if isinstance(step, Proving):
                    yield f"proving {name} {step.fraction:.0%}"
            if pulling.is_complete:
                return
            pulling.require_space()
            check_usable(pulling.header(), pulling.path)
            began, missing = monotonic(), pulling.missing
            for progress in pulling.fetch():
                if cancel.is_set():
                    return
                if isinstance(progress, Proving):
                    yield f"proving {name} {progress.fraction:.0%}"
                    continue
                came = missing - pulling.missing
                speed = came / max(0.001, monotonic() - began)
                left = f", {pulling.missing / speed / 60:.0f} min left" if speed > 1 else ""
                yield f"pulling {name} {1 - pulling.missing / max(1, target.size):.0%}{left}"

    def _fits(self, size: int) -> bool:
        from phichat.engine.hardware import probe_memory

        return size + _BESIDE_WEIGHTS <= probe_memory().available


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
