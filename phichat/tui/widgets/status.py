"""The line that says what is going on: model, placement, context, speed and state."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from phichat.terminal import clean_line

_BAR = 10


@dataclass(frozen=True, slots=True)
class Status:
    """used, n_ctx: tokens. state: what goes on, "" when nothing does. beside: the same in the background."""

    model: str = ""
    placement: str = ""
    used: int = 0
    n_ctx: int = 0
    tokens_per_second: float = 0.0
    state: str = ""
    beside: str = ""


class StatusLine(Widget):
    """One line; what does not fit its width is left out from the least important on."""

    status: reactive[Status] = reactive(Status())

    def render(self) -> Text:
        status = self.status
        parts: list[Text] = []
        if status.state:
            parts.append(Text(status.state, "bold"))
        if status.beside:
            parts.append(Text(clean_line(status.beside), "italic"))
        parts.append(Text(clean_line(status.model) or "no model yet"))
        if status.n_ctx:
            parts.append(_gauge(status.used, status.n_ctx))
        if status.placement:
            parts.append(Text(clean_line(status.placement)))
        if status.tokens_per_second:
            parts.append(Text(f"{status.tokens_per_second:.1f} tokens/s"))
        line = Text(" ")
        for index, part in enumerate(parts):
            apart = "  " if index else ""
            if line.cell_len + len(apart) + part.cell_len > self.size.width - 1 and index:
                break
            line.append(apart)
            line.append_text(part)
        line.no_wrap = True
        return line


def _gauge(used: int, n_ctx: int) -> Text:
    share = min(1.0, used / n_ctx)
    full = round(share * _BAR)
    colour = "green" if share < 0.7 else "yellow" if share < 0.9 else "red"
    text = Text(f"{used:,} of {n_ctx:,} tokens ")
    text.append("━" * full, colour)
    text.append("╌" * (_BAR - full), "dim")
    return text
