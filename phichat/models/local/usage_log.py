"""When each model was used, and how fast it was here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import time_ns

from phichat.models.local.hash_cache import utc_now
from phichat.storage.file_metadata import FileMetadataCache


@dataclass(frozen=True, slots=True)
class GenerationSpeed:
    """Generated tokens per second with so many layers on GPUs; measured_by: the verb it was seen in."""

    tokens_per_second: float
    n_gpu_layers: int
    measured_by: str


class UsageLog:
    """The uses of this user's models, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._metadata = FileMetadataCache(folder)

    def note(self, path: Path, *, is_explicit: bool) -> None:
        """It was loaded. chosen: by the user, rather than because there was nothing else."""
        entry = self._metadata.read_entry(path)
        entry["used_at"] = utc_now()
        if is_explicit:
            # One that came of itself stays the one that comes of itself, until the user chooses.
            entry["chosen_at_ns"] = time_ns()
        self._metadata.write_entry(path, entry)

    def record_speed(self, path: Path, speed: GenerationSpeed) -> None:
        """It was measured."""
        entry = self._metadata.read_entry(path)
        entry["speed"] = [speed.tokens_per_second, speed.n_gpu_layers, speed.measured_by]
        self._metadata.write_entry(path, entry)

    def last_used_at(self, path: Path) -> str | None:
        """When it was loaded last, ISO 8601 UTC."""
        used_at = self._metadata.read_entry(path).get("used_at")
        return used_at if isinstance(used_at, str) else None

    def last_speed(self, path: Path) -> GenerationSpeed | None:
        """How fast it was last."""
        try:
            rate, layers, measured_by = self._metadata.read_entry(path)["speed"]
            return GenerationSpeed(float(rate), int(layers), str(measured_by))
        except (KeyError, TypeError, ValueError):
            return None

    def last_chosen(self) -> Path | None:
        """The file that the user chose last, which may be gone."""
        explicit = [note for note in self._metadata.iter_entries() if isinstance(note.get("chosen_at_ns"), int)]
        latest = max(explicit, key=lambda note: int(note["chosen_at_ns"]), default=None)
        return Path(latest["path"]) if latest else None

    def remove(self, path: Path) -> None:
        """It is gone."""
        self._metadata.remove_entry(path)
