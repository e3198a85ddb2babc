"""The status line: activity, model, context, placement and speed."""

from typing import Any

from rich.text import Text
from textual.reactive import reactive
from textual.widget import Widget

from phichat.sanitize import sanitize_line

_GAUGE_WIDTH = 10


class StatusLine(Widget):
    """Show a status in one line, which drops its last parts if it is too narrow. Texts are sanitised here.

    used_tokens, n_ctx: in the context. activity: "" while idle. download: its progress.
    """

    activity = reactive("")
    download = reactive("")
    model = reactive("")
    used_tokens = reactive(0)
    n_ctx = reactive(0)
    placement = reactive("")
    tokens_per_second = reactive(0.0)

    def update_status(self, **changes: Any) -> None:
        """Replace parts of the status."""
        for name, value in changes.items():
            setattr(self, name, value)

    def render(self) -> Text:
        parts = [
            Text(self.activity, "bold"),
            Text(sanitize_line(self.download), "italic"),
            Text(sanitize_line(self.model) or "no model"),
            _format_gauge(self.used_tokens, self.n_ctx) if self.n_ctx else Text(),
            Text(sanitize_line(self.placement)),
            Text(f"{self.tokens_per_second:.1f} tokens/s" if self.tokens_per_second else ""),
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
