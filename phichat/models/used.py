"""When each model was used, and how fast it was here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import time_ns

from phichat.models.notes import Notes
from phichat.models.proofs import utc_now


@dataclass(frozen=True, slots=True)
class Speed:
    """Generated tokens per second with so many layers on GPUs; measured_by: the verb it was seen in."""

    tokens_per_second: float
    n_gpu_layers: int
    measured_by: str


class Used:
    """The uses of this user's models, in a folder."""

    def __init__(self, folder: Path) -> None:
        self._notes = Notes(folder)

    def note(self, path: Path, *, chosen: bool) -> None:
        """It was loaded. chosen: by the user, rather than because there was nothing else."""
        note = self._notes.read(path)
        note["used_at"] = utc_now()
        if chosen:
            # One that came of itself stays the one that comes of itself, until the user chooses.
            note["chosen_at_ns"] = time_ns()
        self._notes.write(path, note)

    def note_speed(self, path: Path, speed: Speed) -> None:
        """It was measured."""
        note = self._notes.read(path)
        note["speed"] = [speed.tokens_per_second, speed.n_gpu_layers, speed.measured_by]
        self._notes.write(path, note)

    def at(self, path: Path) -> str | None:
        """When it was loaded last, ISO 8601 UTC."""
        used = self._notes.read(path).get("used_at")
        return used if isinstance(used, str) else None

    def speed(self, path: Path) -> Speed | None:
        """How fast it was last."""
        try:
            rate, layers, by = self._notes.read(path)["speed"]
            return Speed(float(rate), int(layers), str(by))
        except (KeyError, TypeError, ValueError):
            return None

    def last(self) -> Path | None:
        """The file that the user chose last, which may be gone."""
        chosen = [note for note in self._notes.all() if isinstance(note.get("chosen_at_ns"), int)]
        latest = max(chosen, key=lambda note: int(note["chosen_at_ns"]), default=None)
        return Path(latest["path"]) if latest else None

    def forget(self, path: Path) -> None:
        """It is gone."""
        self._notes.remove(path)
