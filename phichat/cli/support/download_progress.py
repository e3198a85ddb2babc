"""Reports on a download: a progress bar on a terminal, a few plain lines elsewhere, or JSON lines."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from phichat.cli.support.diagnostics import Diagnostics
from phichat.cli.support.output import Output
from phichat.models.download.progress import DownloadProgress, RateMeter, VerifyProgress
from phichat.units import format_size

if TYPE_CHECKING:
    from phichat.models.download.plan import DownloadPlan
    from phichat.models.download.progress import PullProgress
    from phichat.services.model_downloads import DownloadDone

_LOG_INTERVAL_S = 10.0
_LOG_INTERVAL_FRACTION = 0.1
_JSON_INTERVAL_S = 1.0
_BAR_WIDTH = 24


class DownloadReporter:
    """Reports the events of one download. output: for JSON lines, None for text on stderr."""

    def __init__(self, diagnostics: Diagnostics, output: Output | None) -> None:
        self._diagnostics, self._output = diagnostics, output
        self._is_terminal = bool(sys.stderr and sys.stderr.isatty())
        self._rate_meter = RateMeter()
        self._last_report_at, self._last_report_fraction = time.monotonic(), 0.0
        self._last_notice = ""

    def report(self, event: DownloadPlan | PullProgress | DownloadDone) -> None:
        """Report one event."""
        from phichat.models.download.plan import DownloadPlan

        match event:
            case DownloadPlan():
                self._report_start(event)
            case VerifyProgress(name, fraction):
                self._diagnostics.show_progress(f"verifying {name} {fraction:.0%}")
            case DownloadProgress():
                self._report_progress(event)
            case _:
                self._report_done(event)

    def _report_start(self, plan: DownloadPlan) -> None:
        self._diagnostics.print_notice(*plan.notices)
        facts = {"origin": plan.origin, "size": plan.size, "licence": plan.licence, "gated": plan.is_gated}
        self._write_json({"event": "start", "model": plan.name, **facts})

    def _report_progress(self, step: DownloadProgress) -> None:
        if step.notice and step.notice != self._last_notice:
            self._diagnostics.print_notice(step.notice)
            self._last_notice = step.notice
        now, fraction, time_left = time.monotonic(), step.fraction, self._rate_meter.update(step)
        rate = format_size(int(self._rate_meter.bytes_per_s))
        sizes = f"{format_size(step.done_bytes)} of {format_size(step.total_bytes)}"
        line = f"{fraction:4.0%}  {sizes}, {rate}/s{time_left}"
        if self._is_terminal:
            filled = round(fraction * _BAR_WIDTH)
            self._diagnostics.show_progress(f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {line}")
        is_due = now - self._last_report_at > (_JSON_INTERVAL_S if self._output else _LOG_INTERVAL_S)
        if is_due or fraction - self._last_report_fraction >= _LOG_INTERVAL_FRACTION:
            self._last_report_at, self._last_report_fraction = now, fraction
            counts = {"done": step.done_bytes, "size": step.total_bytes, "fetched": step.fetched_bytes}
            self._write_json({"event": "progress", **counts})
            if not self._output and not self._is_terminal:
                self._diagnostics.print_notice(line.strip())

    def _report_done(self, done: DownloadDone) -> None:
        self._diagnostics.clear_progress()
        if not self._output:
            result = "downloaded" if done.fetched_bytes else "already downloaded"
            self._diagnostics.print_notice(f"{done.name} {result} and verified: {done.path}")
        facts = {"path": str(done.path), "sha256": done.files[done.path], "size": done.size}
        files = [{"path": str(path), "sha256": digest} for path, digest in done.files.items()]
        self._write_json({"event": "done", **facts, "fetched": done.fetched_bytes, "files": files})

    def _write_json(self, document: object) -> None:
        if self._output:
            self._output.write_json(document)
