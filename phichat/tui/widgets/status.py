"""The status line: activity, model, context, placement and speed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from phichat.sanitize import sanitize_line

_GAUGE_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Status:
    """used_tokens, n_ctx: in the context. activity: "" while idle. background: progress of a download."""

    model: str = ""
    placement: str = ""
    used_tokens: int = 0
    n_ctx: int = 0
    tokens_per_second: float = 0.0
    activity: str = ""
    background: str = ""


class StatusLine(Widget):
    """Show a status in one line, which drops its last parts if it is too narrow. Texts are sanitised here."""

    status: reactive[Status] = reactive(Status())

    def update_status(self, **changes: Any) -> None:
        """Replace fields of the status."""
        self.status = replace(self.status, **changes)

    def render(self) -> Text:
        status = self.status
        parts = [
            Text(status.activity, "bold"),
            Text(sanitize_line(status.background), "italic"),
            Text(sanitize_line(status.model) or "no model"),
            _format_gauge(status.used_tokens, status.n_ctx) if status.n_ctx else Text(),
            Text(sanitize_line(status.placement)),
            Text(f"{status.tokens_per_second:.1f} tokens/s" if status.tokens_per_second else ""),
        ]
        line = Text(" ", no_wrap=True)
        for index, part in enumerate(filter(None, parts)):
            separator = "  " if index else ""
            if line.cell_len + len(separator) + part.cell_len > self.size.width - 1 and index:
                break
            line.append(separator)
            line.append_text(part)
        return line


def _format_gauge(used_tokens: int, n_ctx: int) -> Text:
    fraction = min(1.0, used_tokens / n_ctx)
    filled = round(fraction * _GAUGE_WIDTH)
    colour = "green" if fraction < 0.7 else "yellow" if fraction < 0.9 else "red"
    gauge = ("━" * filled, colour), ("╌" * (_GAUGE_WIDTH - filled), "dim")
    return Text.assemble(f"{used_tokens:,} of {n_ctx:,} tokens ", *gauge)
