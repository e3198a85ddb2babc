"""What the headers of models say, remembered, because getting past a vocabulary takes tens of milliseconds each."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.errors import PhichatError
from phichat.gguf_names import split_parts
from phichat.models.notes import Notes, stat_key

if TYPE_CHECKING:
    from phichat.gguf_header import GgufHeader


@dataclass(frozen=True, slots=True)
class Facts:
    """problem: why it cannot be chatted with, "" when it can. damaged: whether the file itself is at fault,
    rather than being something else than a chat model."""

    architecture: str = ""
    title: str = ""
    quantization: str = ""
    context_length: int = 0
    problem: str = ""
    damaged: bool = False


class Headers:
    """The facts of files, read once for each state of a file."""

    def __init__(self, folder: Path) -> None:
        self._notes = Notes(folder)

    def facts(self, path: Path) -> Facts:
        """Of a model, whole or split. Never raises: what is wrong is the problem."""
        note = self._notes.read(path)
        try:
            key = [stat_key(part.stat()) for part in split_parts(path)]
        except OSError:
            return _read(path)
        if note.get("key") == key:
            try:
                return Facts(**note["facts"])
            except (KeyError, TypeError):
                pass
        facts = _read(path)
        self._notes.write(path, {"key": key, "facts": asdict(facts)})
        return facts


def _read(path: Path) -> Facts:
    from phichat.gguf_header import check_usable, read_model

    try:
        header = read_model(path)
    except PhichatError as why:
        return Facts(problem=why.message, damaged=True)
    try:
        check_usable(header, path)
    except PhichatError as why:
        return _facts(header, why.message)
    return _facts(header, "")


def _facts(header: GgufHeader, problem: str) -> Facts:
    return Facts(header.architecture, header.name, header.quantization, header.context_length, problem)
