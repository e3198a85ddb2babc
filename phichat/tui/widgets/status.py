"""The line that says what is going on: model, placement, context, speed and state."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from phichat.sanitize import sanitize_line

_GAUGE_WIDTH = 10


@dataclass(frozen=True, slots=True)
class Status:
    """used, n_ctx: tokens. state: what goes on, "" when nothing does. beside: the same in the background."""

    model: str = ""
    placement: str = ""
    used_tokens: int = 0
    n_ctx: int = 0
    tokens_per_second: float = 0.0
    activity: str = ""
    background: str = ""


class StatusLine(Widget):
    """One line; what does not fit its width is left out from the least important on."""

    status: reactive[Status] = reactive(Status())

    def render(self) -> Text:
        status = self.status
        parts: list[Text] = []
        if status.activity:
            parts.append(Text(status.activity, "bold"))
        if status.background:
            parts.append(Text(sanitize_line(status.background), "italic"))
        parts.append(Text(sanitize_line(status.model) or "no model yet"))
        if status.n_ctx:
            parts.append(_format_gauge(status.used_tokens, status.n_ctx))
        if status.placement:
            parts.append(Text(sanitize_line(status.placement)))
        if status.tokens_per_second:
            parts.append(Text(f"{status.tokens_per_second:.1f} tokens/s"))
        line = Text(" ")
        for index, part in enumerate(parts):
            separator = "  " if index else ""
            if line.cell_len + len(separator) + part.cell_len > self.size.width - 1 and index:
                break
            line.append(separator)
            line.append_text(part)
        line.no_wrap = True
        return line


def _format_gauge(used_tokens: int, n_ctx: int) -> Text:
    fraction = min(1.0, used_tokens / n_ctx)
    filled = round(fraction * _GAUGE_WIDTH)
    colour = "green" if fraction < 0.7 else "yellow" if fraction < 0.9 else "red"
    text = Text(f"{used_tokens:,} of {n_ctx:,} tokens ")
    text.append("━" * filled, colour)
    text.append("╌" * (_GAUGE_WIDTH - filled), "dim")
    return text
