"""Selection of the files of a repository that make up the model that the user means.

Publishers name quantizations alike but not the same: `phi-4-Q4_K_M.gguf`, `phi-2.q4_k_m.gguf`,
`Q4_K_M/phi-4-00001-of-00002.gguf`, `phi.i1-Q4_K_M.gguf`, and Microsoft's `phi-4-q4.gguf`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phichat.errors import AmbiguousModelError
from phichat.models.hub_layout import QUANTIZATION_SUFFIX, SPLIT_SUFFIX

DEFAULT_QUANTIZATION = "Q4_K_M"

_NON_MODEL_PATTERN = re.compile(r"(?i)mmproj|imatrix|(?:^|[-._/])(?:mtp-|eagle3-|dflash-|dspark-)|lora|adapter")
"""Projectors, importance matrices, draft heads and adapters in GGUF; llama.cpp skips the same ones."""

_RAW_SPLIT = re.compile(r"\.gguf(?:[.-]part\w*|[-.]split[-.]?\w+|\.\d+)$", re.IGNORECASE)
_MAX_LISTED = 8


@dataclass(frozen=True, slots=True)
class HubFile:
    """File of a repository. size: bytes. sha256, git_oid: lower-case hexadecimal, "" if the hub gives none."""

    path: str
    size: int
    sha256: str = ""
    git_oid: str = ""


@dataclass(frozen=True, slots=True)
class FileSelection:
    """One model. parts: its files in order. needs_check: its name only hints at Q4_K_M; the header decides."""

    parts: tuple[HubFile, ...]
    quantization: str
    needs_check: bool = False

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Candidate:
    stem: str
    part_count: int
    parts: tuple[HubFile, ...]

    @property
    def label(self) -> str:
        """The quantization in its name, else in its folder, as written; "" if there is none."""
        matches = map(QUANTIZATION_SUFFIX.search, reversed(self.stem.split("/")))
        return next((match[1] for match in matches if match), "")

    @property
    def path(self) -> str:
        return self.parts[0].path

    def has_quantization(self, quantization: str, variant: str = "") -> bool:
        """Return whether its name or its folder ends in that; variant: a pattern of what precedes it."""
        pattern = re.compile(rf"(?:^|[-._/]){variant}{re.escape(quantization)}$", re.IGNORECASE)
        return any(map(pattern.search, self.stem.split("/")))


def select_files(files: Iterable[HubFile], repository: str, *, quantization: str = "", file: str = "") -> FileSelection:
    """Select by file (a folder ends in a slash), else by quantization, else Q4_K_M. Raises AmbiguousModelError."""
    models = _group_models(files := list(files))
    if file.endswith("/"):
        models = [model for model in models if model.stem.startswith(file)]
    elif file:
        models = [model for model in models if any(part.path == file for part in model.parts)]
        if not models:
            raise _no_match_error(files, f"{repository} has no file {file}", repository)
        return _require_complete(models[0])
    candidates = _only_models(models)
    if not candidates:
        raise _no_match_error(files, f"{repository} has no GGUF model", repository)
    wanted = quantization or DEFAULT_QUANTIZATION
    matching = [model for model in candidates if model.has_quantization(wanted)]
    # Variants (i1-, UD-) count where there is no plain one.
    matching = [model for model in matching if not model.has_quantization(wanted, "(?:i1|UD)[-._]")] or matching
    needs_check = False
    if not matching and wanted.upper() == DEFAULT_QUANTIZATION:
        matching = [model for model in candidates if re.search(r"(?i)[-._]q4$", model.stem)]
        needs_check = bool(matching)
    if not matching and not quantization and len(candidates) == 1:
        matching = candidates
    if not matching:
        raise _choice_error(candidates, f"{repository} has no {wanted}", repository)
    if len({tuple(part.sha256 or part.path for part in model.parts) for model in matching}) > 1:
        message = f"{repository} has {len(matching)} models in {wanted}: {_join_names([m.path for m in matching])}"
        raise AmbiguousModelError(message, f"Name the file, as in {repository}/{matching[0].path}")
    return _require_complete(matching[0], needs_check=needs_check)


def _group_models(files: Sequence[HubFile]) -> list[_Candidate]:
    groups: dict[tuple[str, int], list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if file.path.lower().endswith(".gguf"):
            stem = file.path[: -len(".gguf")]
            split = SPLIT_SUFFIX.search(stem)
            key = (stem[: split.start()], int(split[2])) if split else (stem, 0)
            groups.setdefault(key, []).append(file)
    return [_Candidate(stem, count, tuple(parts)) for (stem, count), parts in groups.items()]


def _only_models(candidates: Sequence[_Candidate]) -> list[_Candidate]:
    return [candidate for candidate in candidates if not _NON_MODEL_PATTERN.search(candidate.path)]


def _require_complete(model: _Candidate, *, needs_check: bool = False) -> FileSelection:
    if model.part_count and len(model.parts) != model.part_count:
        problem = f"is incomplete: {len(model.parts)} of {model.part_count} parts are in the repository"
        raise AmbiguousModelError(f"{model.path} {problem}", "Choose another quantization or repository")
    return FileSelection(model.parts, DEFAULT_QUANTIZATION if needs_check else model.label, needs_check)


def _no_match_error(files: Sequence[HubFile], message: str, repository: str) -> AmbiguousModelError:
    if any(_RAW_SPLIT.search(file.path) for file in files):
        reason = "the file was split into raw pieces, which cannot be loaded"
        return AmbiguousModelError(f"{message}: {reason}", "Choose another repository")
    if models := _only_models(_group_models(files)):
        return _choice_error(models, message, repository)
    return AmbiguousModelError(message, "Look for a GGUF repository of the model with `phichat search WORDS`")


def _choice_error(models: Sequence[_Candidate], message: str, repository: str) -> AmbiguousModelError:
    labels = [model.label for model in models]
    label = next((label for label in labels if label and labels.count(label) == 1), "")
    example = f"{repository}:{label}" if label else f"{repository}/{models[0].path}"
    names = _join_names(list(dict.fromkeys(model.label or model.path for model in models)))
    return AmbiguousModelError(f"{message}; available: {names}", f"Try {example}")


def _join_names(names: Sequence[str]) -> str:
    hidden = len(names) - _MAX_LISTED
    return ", ".join(names[:_MAX_LISTED]) + (f" and {hidden} more" if hidden > 0 else "")
