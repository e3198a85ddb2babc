"""How a download is told: one line that moves on a terminal, a few plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.cli.diagnostics import Diagnostics
from phichat.cli.output import Output
from phichat.cli.tables import size

if TYPE_CHECKING:
    from phichat.models.pull import Pull, Step
    from phichat.models.target import Target

_WINDOW_S = 5.0
_PLAIN_S = 10.0
_PLAIN_SHARE = 0.1
_JSON_S = 1.0
_BAR = 24


class Reporter:
    """Tells the steps of one pull. output: where JSON lines go, None for people."""

    def __init__(self, diagnostics: Diagnostics, output: Output | None) -> None:
        self._tell, self._output = diagnostics, output
        self._moves = bool(sys.stderr and sys.stderr.isatty())
        self._seen: deque[tuple[float, int]] = deque()
        self._told_at, self._told_share = time.monotonic(), 0.0
        self._notice = ""

    def begin(self, target: Target) -> None:
        """It is known what is to come."""
        for notice in target.notices:
            self._tell.notice(notice)
        if self._output:
            self._output.document(
                {
                    "event": "start",
                    "model": target.name,
                    "origin": target.origin,
                    "size": target.size,
                    "licence": target.licence,
                    "gated": target.is_gated,
                }
            )

    def show(self, step: Step) -> None:
        """Something has moved."""
        from phichat.models.pull import Proving

        if isinstance(step, Proving):
            self._tell.progress(f"proving {step.name} {step.fraction:.0%}")
            return
        if step.notice and step.notice != self._notice:
            self._tell.notice(step.notice)
        self._notice = step.notice or self._notice
        now = time.monotonic()
        self._seen.append((now, step.fetched))
        while self._seen[0][0] < now - _WINDOW_S:
            self._seen.popleft()
        share = step.done / max(1, step.total)
        rate = (step.fetched - self._seen[0][1]) / max(0.05, now - self._seen[0][0])
        left = f", {_duration((step.total - step.done) / rate)} left" if rate > 1 and step.done < step.total else ""
        line = f"{share:4.0%}  {size(step.done)} of {size(step.total)}, {size(int(rate))}/s{left}"
        if self._moves:
            filled = round(share * _BAR)
            self._tell.progress(f"[{'#' * filled}{'.' * (_BAR - filled)}] {line}")
        is_due = now - self._told_at > (_JSON_S if self._output else _PLAIN_S)
        if is_due or share - self._told_share >= _PLAIN_SHARE:
            self._told_at, self._told_share = now, share
            if self._output:
                self._output.document(
                    {"event": "progress", "done": step.done, "size": step.total, "fetched": step.fetched}
                )
            elif not self._moves:
                self._tell.notice(line.strip())

    def done(self, pulled: Pull) -> None:
        """It is in its place and proven."""
        self._tell.clear_progress()
        path, digests = pulled.path, pulled.sha256
        if self._output:
            files = [{"path": str(each), "sha256": digest} for each, digest in digests.items()]
            self._done(path, digests[path], pulled.target.size, pulled.fetched, files)
        elif pulled.fetched:
            self._tell.notice(f"{pulled.target.name} is in its place and proven: {path}")
        else:
            self._tell.notice(f"{pulled.target.name} was there already and is proven: {path}")

    def already_there(self, path: Path, sha256: str) -> None:
        """Nothing was asked of anybody."""
        if self._output:
            self._done(path, sha256, path.stat().st_size, 0, [{"path": str(path), "sha256": sha256}])
        else:
            self._tell.notice(f"It is there already and is proven: {path}")

    def _done(self, path: Path, sha256: str, total: int, fetched: int, files: list[dict[str, str]]) -> None:
        assert self._output is not None
        self._output.document(
            {
                "event": "done",
                "path": str(path),
                "sha256": sha256,
                "size": total,
                "fetched": fetched,
                "files": files,
            }
        )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
