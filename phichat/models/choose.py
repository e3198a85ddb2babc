"""Which file of a repository is meant.

Publishers name quantizations alike but not the same: `phi-4-Q4_K_M.gguf`, `phi-2.q4_k_m.gguf`,
`Q4_K_M/phi-4-00001-of-00002.gguf`, `phi.i1-Q4_K_M.gguf`, and Microsoft's `phi-4-q4.gguf`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from phichat.errors import ModelChoiceError

USUAL = "Q4_K_M"

_NO_MODEL = re.compile(r"mmproj|imatrix|(?:^|[-._/])(?:mtp-|eagle3-|dflash-|dspark-)|lora|adapter", re.IGNORECASE)
"""Projectors, importance matrices, draft heads and adapters, which come as GGUF too; llama.cpp skips the same."""

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})$")
_RAW_SPLIT = re.compile(r"\.gguf(?:[.-]part\w*|[-.]split[-.]?\w+|\.\d+)$", re.IGNORECASE)
_LABEL = re.compile(r"(?i)(?:^|[-._/])((?:UD-)?(?:I?Q\d\w*|TQ\d_\d|MXFP4\w*|NVFP4\w*|BF16|F16|F32|FP16|FP32))$")
_NAMED_AT_MOST = 8


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. size: bytes. sha256 and git_oid: lower-case hexadecimal, "" where the hub gives none."""

    path: str
    size: int
    sha256: str = ""
    git_oid: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One model: its parts in order, a single one where it is not split.

    needs_check: the name only hints at the quantization; the header has to say Q4_K_M.
    """

    parts: tuple[HubFile, ...]
    quantization: str
    needs_check: bool = False

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


@dataclass(frozen=True, slots=True)
class _Model:
    stem: str
    count: int
    parts: tuple[HubFile, ...]

    @property
    def label(self) -> str:
        """The quantization that its name, else its folder, states."""
        for piece in reversed(self.stem.split("/")):
            if found := _LABEL.search(piece):
                return found[1]
        return ""

    @property
    def shown(self) -> str:
        return self.parts[0].path

    def is_quantized(self, wanted: str) -> bool:
        pattern = re.compile(r"(?:^|[-._/])" + re.escape(wanted) + "$", re.IGNORECASE)
        return any(pattern.search(piece) for piece in self.stem.split("/"))


def choose(files: Iterable[HubFile], repository: str, *, quantization: str = "", file: str = "") -> Choice:
    """The model that is meant: by file (a folder ends in a slash), else by quantization, else Q4_K_M.

    Raises ModelChoiceError, which names what there is to choose from.
    """
    files = list(files)
    models = _models(files)
    if file.endswith("/"):
        models = [model for model in models if model.stem.startswith(file)]
    elif file:
        models = [model for model in models if any(part.path == file for part in model.parts)]
        if not models:
            raise _none(files, repository, f"{repository} has no file {file}")
        return _whole(models[0])
    candidates = [model for model in models if not _NO_MODEL.search(model.shown)]
    if not candidates:
        raise _none(files, repository, f"{repository} has no GGUF model")
    wanted = quantization or USUAL
    fitting = _plainest([model for model in candidates if model.is_quantized(wanted)], wanted)
    needs_check = False
    if not fitting and wanted.upper() == USUAL:
        fitting = [model for model in candidates if re.search(r"(?i)[-._]q4$", model.stem)]
        needs_check = bool(fitting)
    if not fitting and not quantization and len(candidates) == 1:
        fitting = candidates
    if not fitting:
        raise ModelChoiceError(
            f"{repository} has no {wanted}, but {_named(candidates)}",
            f"choose one with {_example(repository, candidates)}",
        )
    if len({tuple(part.sha256 or part.path for part in model.parts) for model in fitting}) > 1:
        raise ModelChoiceError(
            f"{repository} has {len(fitting)} models in {wanted}: {_listed([model.shown for model in fitting])}",
            f"name the file, as in {repository}/{fitting[0].shown}",
        )
    return _whole(fitting[0], needs_check=needs_check)


def _models(files: Sequence[HubFile]) -> list[_Model]:
    groups: dict[tuple[str, int], list[HubFile]] = {}
    for file in sorted(files, key=lambda file: file.path):
        if not file.path.lower().endswith(".gguf"):
            continue
        stem = file.path[: -len(".gguf")]
        split = _SPLIT.search(stem)
        key = (stem[: split.start()], int(split[2])) if split else (stem, 0)
        groups.setdefault(key, []).append(file)
    return [_Model(stem, count, tuple(parts)) for (stem, count), parts in groups.items()]


def _plainest(models: list[_Model], wanted: str) -> list[_Model]:
    """Without the variants (i1-, UD-) of a quantization that is there plainly too."""
    variant = re.compile(r"(?:^|[-._/])(?:i1|UD)[-._]" + re.escape(wanted) + "$", re.IGNORECASE)
    plain = [model for model in models if not any(variant.search(piece) for piece in model.stem.split("/"))]
    return plain or models


def _whole(model: _Model, *, needs_check: bool = False) -> Choice:
    if model.count and len(model.parts) != model.count:
        raise ModelChoiceError(
            f"{model.shown} is one of {model.count} parts and the repository has {len(model.parts)} of them",
            "choose another quantization or repository",
        )
    return Choice(model.parts, USUAL if needs_check else model.label, needs_check)


def _none(files: Sequence[HubFile], repository: str, what: str) -> ModelChoiceError:
    if any(_RAW_SPLIT.search(file.path) for file in files):
        return ModelChoiceError(
            f"{what}: the file was cut into pieces that are no GGUF by themselves", "choose another repository"
        )
    models = [model for model in _models(files) if not _NO_MODEL.search(model.shown)]
    if models:
        return ModelChoiceError(f"{what}, but {_named(models)}", f"choose one with {_example(repository, models)}")
    return ModelChoiceError(what, "look for a GGUF repository of the model with `phichat search WORDS`")


def _named(models: Sequence[_Model]) -> str:
    return _listed(list(dict.fromkeys(model.label or model.shown for model in models)))


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _example(repository: str, models: Sequence[_Model]) -> str:
    labels = [model.label for model in models]
    label = next((label for label in labels if label and labels.count(label) == 1), "")
    return f"{repository}:{label}" if label else f"{repository}/{models[0].shown}"
