"""How a download is told: one line that moves on a terminal, a few plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.output import Output
from phichat.cli.support.tables import format_size

if TYPE_CHECKING:
    from phichat.models.download.model_download import ModelDownload, PullProgress
    from phichat.models.download.plan import DownloadPlan

_RATE_WINDOW_S = 5.0
_LOG_INTERVAL_S = 10.0
_LOG_INTERVAL_FRACTION = 0.1
_JSON_INTERVAL_S = 1.0
_BAR_WIDTH = 24


class DownloadReporter:
    """Tells the steps of one pull. output: where JSON lines go, None for people."""

    def __init__(self, diagnostics: Diagnostics, output: Output | None) -> None:
        self._diagnostics, self._output = diagnostics, output
        self._is_terminal = bool(sys.stderr and sys.stderr.isatty())
        self._samples: deque[tuple[float, int]] = deque()
        self._last_report_at, self._last_report_fraction = time.monotonic(), 0.0
        self._last_notice = ""

    def report_start(self, target: DownloadPlan) -> None:
        """It is known what is to come."""
        for notice in target.notices:
            self._diagnostics.print_notice(notice)
        if self._output:
            self._output.write_json(
                {
                    "event": "start",
                    "model": target.name,
                    "origin": target.origin,
                    "size": target.size,
                    "licence": target.licence,
                    "gated": target.is_gated,
                }
            )

    def report_step(self, step: PullProgress) -> None:
        """Something has moved."""
        from phichat.models.download.model_download import VerifyProgress

        if isinstance(step, VerifyProgress):
            self._diagnostics.show_progress(f"proving {step.name} {step.fraction:.0%}")
            return
        if step.notice and step.notice != self._last_notice:
            self._diagnostics.print_notice(step.notice)
        self._last_notice = step.notice or self._last_notice
        now = time.monotonic()
        self._samples.append((now, step.fetched_bytes))
        while self._samples[0][0] < now - _RATE_WINDOW_S:
            self._samples.popleft()
        fraction = step.done_bytes / max(1, step.total_bytes)
        rate = (step.fetched_bytes - self._samples[0][1]) / max(0.05, now - self._samples[0][0])
        eta = (
            f", {_format_duration((step.total_bytes - step.done_bytes) / rate)} left"
            if rate > 1 and step.done_bytes < step.total_bytes
            else ""
        )
        line = f"{fraction:4.0%}  {format_size(step.done_bytes)} of {format_size(step.total_bytes)}, {format_size(int(rate))}/s{eta}"
        if self._is_terminal:
            filled = round(fraction * _BAR_WIDTH)
            self._diagnostics.show_progress(f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {line}")
        is_due = now - self._last_report_at > (_JSON_INTERVAL_S if self._output else _LOG_INTERVAL_S)
        if is_due or fraction - self._last_report_fraction >= _LOG_INTERVAL_FRACTION:
            self._last_report_at, self._last_report_fraction = now, fraction
            if self._output:
                self._output.write_json(
                    {
                        "event": "progress",
                        "done": step.done_bytes,
                        "size": step.total_bytes,
                        "fetched": step.fetched_bytes,
                    }
                )
            elif not self._is_terminal:
                self._diagnostics.print_notice(line.strip())

    def report_done(self, download: ModelDownload) -> None:
        """It is in its place and proven."""
        self._diagnostics.clear_progress()
        path, digests = download.path, download.sha256
        if self._output:
            files = [{"path": str(each), "sha256": digest} for each, digest in digests.items()]
            self._print_done(path, digests[path], download.plan.size, download.fetched_bytes, files)
        elif download.fetched_bytes:
            self._diagnostics.print_notice(f"{download.plan.name} is in its place and proven: {path}")
        else:
            self._diagnostics.print_notice(f"{download.plan.name} was there already and is proven: {path}")

    def report_installed(self, path: Path, sha256: str) -> None:
        """Nothing was asked of anybody."""
        if self._output:
            self._print_done(path, sha256, path.stat().st_size, 0, [{"path": str(path), "sha256": sha256}])
        else:
            self._diagnostics.print_notice(f"It is there already and is proven: {path}")

    def _print_done(self, path: Path, sha256: str, total: int, fetched: int, files: list[dict[str, str]]) -> None:
        assert self._output is not None
        self._output.write_json(
            {
                "event": "done",
                "path": str(path),
                "sha256": sha256,
                "size": total,
                "fetched": fetched,
                "files": files,
            }
        )


def _format_duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
