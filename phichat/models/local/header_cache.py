"""What the headers of models say, remembered, because getting past a vocabulary takes tens of milliseconds each."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.errors import PhichatError
from phichat.gguf.split import list_split_paths
from phichat.storage.file_metadata import FileMetadataCache
from phichat.storage.fingerprint import compute_fingerprint

if TYPE_CHECKING:
    from phichat.gguf.header import GgufHeader


@dataclass(frozen=True, slots=True)
class HeaderSummary:
    """problem: why it cannot be chatted with, "" when it can. damaged: whether the file itself is at fault,
    rather than being something else than a chat model."""

    architecture: str = ""
    title: str = ""
    quantization: str = ""
    context_length: int = 0
    problem: str = ""
    damaged: bool = False


class HeaderCache:
    """The facts of files, read once for each state of a file."""

    def __init__(self, folder: Path) -> None:
        self._metadata = FileMetadataCache(folder)

    def get_summary(self, path: Path) -> HeaderSummary:
        """Of a model, whole or split. Never raises: what is wrong is the problem."""
        entry = self._metadata.read_entry(path)
        key = [list(compute_fingerprint(part)) for part in list_split_paths(path)]
        if entry.get("key") == key:
            with suppress(KeyError, TypeError):
                return HeaderSummary(**entry["facts"])
        summary = _read_summary(path)
        if all(key):
            self._metadata.write_entry(path, {"key": key, "facts": asdict(summary)})
        return summary


def _read_summary(path: Path) -> HeaderSummary:
    from phichat.gguf.header import check_usable, read_model_header

    try:
        header = read_model_header(path)
    except PhichatError as error:
        return HeaderSummary(problem=error.message, damaged=True)
    try:
        check_usable(header, path)
    except PhichatError as error:
        return _summarize(header, error.message)
    return _summarize(header, "")


def _summarize(header: GgufHeader, problem: str) -> HeaderSummary:
    return HeaderSummary(header.architecture, header.name, header.quantization, header.context_length, problem)
