"""Render items as styled lines: the one place of the full-screen chat where untrusted text is sanitised."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from rich.theme import Theme

from phichat.sanitize import sanitize
from phichat.tui.render.blocks import ItemKind, RenderItem

TAB_SIZE = 4
GUTTER_WIDTH = 2
"""Cells at the left of each line, for the bar of a prompt and of the selected turn."""

Line = tuple[Segment, ...]
"""One drawn line; unless it is empty, its first segment is the gutter."""


@dataclass(frozen=True, slots=True)
class RenderTheme:
    """The colours of a theme as Rich styles. dark: selects the theme of highlighted code."""

    dark: bool
    prompt: str
    muted: str
    accent: str
    notice: str
    warning: str
    error: str
    code_background: str


class Renderer:
    """Render for one theme and one width, in cells to the right of the gutter."""

    def __init__(self, theme: RenderTheme, width: int) -> None:
        self.theme, self.width = theme, max(10, width)
        styles = {
            "h1": f"bold underline {theme.accent}",
            **dict.fromkeys(("h2", "h3", "code"), f"bold {theme.accent}"),
            "h4": "bold",
            **dict.fromkeys(("item.bullet", "item.number"), theme.accent),
            "link": "underline",
            **dict.fromkeys(("link_url", "block_quote", "hr"), theme.muted),
        }
        markdown_theme = Theme({f"markdown.{name}": style for name, style in styles.items()})
        # Only renders; nothing is written to a terminal.
        self._console = Console(file=StringIO(), force_terminal=True, color_system="truecolor", theme=markdown_theme)
        self._code_theme = "monokai" if theme.dark else "friendly"
        self._prompt_gutter = Segment("▌ ", Style.parse(theme.prompt))
        self._empty_gutter = Segment(" " * GUTTER_WIDTH)

    def render_lines(self, item: RenderItem) -> list[Line]:
        """Return the lines of an item, each at most as wide as the renderer and its gutter."""
        gutter = self._prompt_gutter if item.kind is ItemKind.PROMPT else self._empty_gutter
        return [(gutter, *line) for line in self._render_item(item)]

    def _render_item(self, item: RenderItem) -> Sequence[Sequence[Segment]]:
        text, theme = sanitize(item.text).expandtabs(TAB_SIZE), self.theme
        match item.kind:
            case ItemKind.MARKDOWN:
                from phichat.tui.render.markdown import parse_markdown

                return self._render_rich(parse_markdown(text, self._code_theme))
            case ItemKind.CODE:
                return self._render_rich(self._highlight_code(text, item.language))
            case ItemKind.WARNING:
                return self._render_rich(Padding(Text(f"⚠ {text}", style=theme.warning), (0, 0, 0, 1)))
            case ItemKind.NOTICE | ItemKind.ERROR | ItemKind.META as kind:
                styles = {ItemKind.NOTICE: theme.notice, ItemKind.ERROR: theme.error, ItemKind.META: theme.muted}
                return self._render_rich(Text(text, style=styles[kind]))
            case ItemKind.PLAIN | ItemKind.PROMPT | ItemKind.REASONING as kind:
                # In linear time for a line of any length.
                styles = {ItemKind.PROMPT: theme.prompt, ItemKind.REASONING: f"italic {theme.muted}"}
                style = Style.parse(styles[kind]) if kind in styles else None
                return [(Segment(line, style),) for line in fold_text(text, self.width)]

    def _highlight_code(self, code: str, language: str) -> object:
        from rich.syntax import Syntax

        return Syntax(
            code,
            language or "text",
            theme=self._code_theme,
            word_wrap=True,
            padding=(0, 1),
            background_color=self.theme.code_background,
            tab_size=TAB_SIZE,
        )

    def _render_rich(self, renderable: object) -> Sequence[Sequence[Segment]]:
        options = self._console.options.update(width=self.width)
        lines = self._console.render_lines(renderable, options, pad=False)  # type: ignore[arg-type]
        blank = [not any(segment.text.strip() for segment in line) for line in lines]
        start = next((index for index, is_blank in enumerate(blank) if not is_blank), 0)
        trailing = next((index for index, is_blank in enumerate(reversed(blank)) if not is_blank), 0)
        return lines[start : len(lines) - trailing]


def fold_text(text: str, width: int) -> list[str]:
    """Return the lines of a text, each at most width cells, broken at a space if possible."""
    lines: list[str] = []
    for source_line in text.split("\n"):
        offset = 0
        while True:
            line = source_line[offset : offset + width]
            while cell_len(line) > width:
                line = line[: max(1, len(line) - max(1, (cell_len(line) - width) // 2))]
            if offset + len(line) >= len(source_line):
                lines.append(line)
                break
            space = line.rfind(" ")
            if space > width // 2:
                line = line[: space + 1]
            lines.append(line.rstrip(" "))
            offset += len(line)
    return lines
