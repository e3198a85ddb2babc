"""Progress of a download."""

import time
from collections import deque
from dataclasses import dataclass

from phichat.units import format_duration

_RATE_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class DownloadProgress:
    """Bytes present of the total, and received in this run. notice: a remark for the user, or ""."""

    done_bytes: int
    total_bytes: int
    fetched_bytes: int
    notice: str = ""

    @property
    def fraction(self) -> float:
        """Fraction present, 0 to 1."""
        return self.done_bytes / max(1, self.total_bytes)


@dataclass(frozen=True, slots=True)
class VerifyProgress:
    """A file that exists already is read whole. fraction: 0 to 1."""

    name: str
    fraction: float


PullProgress = DownloadProgress | VerifyProgress


class RateMeter:
    """Rate of a download over the last seconds."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self.bytes_per_s = 0.0

    def update(self, step: DownloadProgress) -> str:
        """Update the rate; return the time left as ", 3 min left", "" if it is not known."""
        now = time.monotonic()
        self._samples.append((now, step.fetched_bytes))
        while self._samples[0][0] < now - _RATE_WINDOW_S:
            self._samples.popleft()
        first_at, first_bytes = self._samples[0]
        self.bytes_per_s = (step.fetched_bytes - first_bytes) / max(0.05, now - first_at)
        missing = step.total_bytes - step.done_bytes
        return f", {format_duration(missing / self.bytes_per_s)} left" if self.bytes_per_s > 1 and missing else ""
