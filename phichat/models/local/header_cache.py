"""Summaries of model headers, remembered because reading past a vocabulary takes tens of milliseconds per file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from phichat.errors import PhichatError
from phichat.gguf.split import list_split_paths
from phichat.storage.file_metadata import FileMetadataCache
from phichat.storage.fingerprint import compute_fingerprint


@dataclass(frozen=True, slots=True)
class HeaderSummary:
    """Facts from a header. problem: why the model cannot chat, "" if it can; damaged: the file itself is at fault."""

    architecture: str = ""
    title: str = ""
    quantization: str = ""
    context_length: int = 0
    problem: str = ""
    damaged: bool = False


class HeaderCache(FileMetadataCache):
    """Header summaries, by path; read again when a file changed."""

    def get_summary(self, path: Path) -> HeaderSummary:
        """Return the summary of a model, whole or split. Does not raise: errors become its problem."""
        entry, key = self.read_entry(path), [list(compute_fingerprint(part)) for part in list_split_paths(path)]
        if entry.get("key") == key:
            with suppress(KeyError, TypeError):
                return HeaderSummary(**entry["facts"])
        summary = _read_summary(path)
        if all(key):
            self.write_entry(path, {"key": key, "facts": asdict(summary)})
        return summary


def _read_summary(path: Path) -> HeaderSummary:
    from phichat.gguf.header import check_usable, read_model_header

    header, problem = None, ""
    try:
        header = read_model_header(path)
        check_usable(header, path)
    except PhichatError as error:
        problem = error.message
    if header is None:
        return HeaderSummary(problem=problem, damaged=True)
    return HeaderSummary(header.architecture, header.name, header.quantization, header.context_length, problem)
