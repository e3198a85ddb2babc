"""When each model was used last, and how fast it generated."""

from dataclasses import astuple, dataclass
from pathlib import Path
from time import time_ns

from phichat.models.local.hash_cache import utc_now
from phichat.storage.json_file import FileMetadataCache


@dataclass(frozen=True, slots=True)
class GenerationSpeed:
    """Generated tokens per second with n_gpu_layers layers on GPUs; measured_by: the command that measured it."""

    tokens_per_second: float
    n_gpu_layers: int
    measured_by: str


class UsageLog(FileMetadataCache):
    """Uses of models, by the path of the file."""

    def note(self, path: Path, *, is_explicit: bool) -> None:
        """Record that a model was loaded; is_explicit: the user chose it, so that it is the default from now on."""
        self.update_entry(path, used_at=utc_now(), **({"chosen_at_ns": time_ns()} if is_explicit else {}))

    def record_speed(self, path: Path, speed: GenerationSpeed) -> None:
        """Record the speed of a model."""
        self.update_entry(path, speed=astuple(speed))

    def last_used_at(self, path: Path) -> str | None:
        """Return when a model was loaded last, ISO 8601 UTC."""
        used_at = self.read_entry(path).get("used_at")
        return used_at if isinstance(used_at, str) else None

    def last_speed(self, path: Path) -> GenerationSpeed | None:
        """Return the speed recorded last."""
        try:
            rate, layers, measured_by = self.read_entry(path)["speed"]
            return GenerationSpeed(float(rate), int(layers), str(measured_by))
        except (KeyError, TypeError, ValueError):
            return None

    def last_chosen(self) -> Path | None:
        """Return the file that the user chose last, which may no longer exist."""
        chosen = [entry for entry in self.iter_entries() if isinstance(entry.get("chosen_at_ns"), int)]
        latest = max(chosen, key=lambda entry: int(entry["chosen_at_ns"]), default=None)
        return Path(latest["path"]) if latest else None
