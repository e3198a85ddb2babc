"""From pieces to lines: the one place of the full-screen chat where foreign text becomes something shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.segment import Segment
from rich.style import Style

from phichat.terminal import clean
from phichat.tui.pieces import Kind, Piece

TAB = 4
GUTTER = 2
"""Cells at the left of each line, where the bar of a prompt and of the selected turn stand."""

Line = tuple[Segment, ...]
"""One line as drawn; the first segment of one that is not empty is the gutter."""


@dataclass(frozen=True, slots=True)
class Look:
    """The colours of a theme, as Rich writes styles. dark chooses how code is highlighted."""

    dark: bool
    prompt: str
    muted: str
    accent: str
    notice: str
    warning: str
    error: str
    code_background: str


class Renderer:
    """Renders for one look and one width, the cells to the right of the gutter."""

    def __init__(self, look: Look, width: int) -> None:
        from phichat.tui.markdown import console

        self.look, self.width = look, max(10, width)
        self._console = console(
            {
                "markdown.h1": f"bold underline {look.accent}",
                "markdown.h2": f"bold {look.accent}",
                "markdown.h3": f"bold {look.accent}",
                "markdown.h4": "bold",
                "markdown.code": f"bold {look.accent}",
                "markdown.item.bullet": look.accent,
                "markdown.item.number": look.accent,
                "markdown.link": "underline",
                "markdown.link_url": look.muted,
                "markdown.block_quote": look.muted,
                "markdown.hr": look.muted,
            }
        )
        self._bar = Segment("▌ ", Style.parse(look.prompt))
        self._margin = Segment(" " * GUTTER)

    def lines(self, piece: Piece) -> list[Line]:
        """The lines of a piece, each at most as wide as the renderer and its gutter."""
        gutter = self._bar if piece.kind is Kind.PROMPT else self._margin
        return [(gutter, *line) for line in self._render(piece)]

    def _render(self, piece: Piece) -> Sequence[Sequence[Segment]]:
        from rich.padding import Padding
        from rich.text import Text

        from phichat.tui.markdown import markdown_text

        text = clean(piece.text).expandtabs(TAB)
        look = self.look
        match piece.kind:
            case Kind.MARKDOWN:
                return self._rendered(markdown_text(text, self._code_theme))
            case Kind.CODE:
                return self._rendered(self._code(text, piece.language))
            case Kind.PLAIN:
                return self._plain(text, "")
            case Kind.PROMPT:
                return self._plain(text, look.prompt)
            case Kind.REASONING:
                return self._plain(text, f"italic {look.muted}")
            case Kind.NOTICE:
                return self._rendered(Text(text, style=look.notice))
            case Kind.WARNING:
                return self._rendered(Padding(Text(f"⚠ {text}", style=look.warning), (0, 0, 0, 1)))
            case Kind.ERROR:
                return self._rendered(Text(text, style=look.error))
            case Kind.META:
                return self._rendered(Text(text, style=look.muted))

    @property
    def _code_theme(self) -> str:
        return "monokai" if self.look.dark else "friendly"

    def _code(self, code: str, language: str) -> object:
        from rich.syntax import Syntax

        return Syntax(
            code,
            language or "text",
            theme=self._code_theme,
            word_wrap=True,
            padding=(0, 1),
            background_color=self.look.code_background,
            tab_size=TAB,
        )

    def _rendered(self, renderable: object) -> Sequence[Sequence[Segment]]:
        options = self._console.options.update(width=self.width)
        lines = self._console.render_lines(renderable, options, pad=False)  # type: ignore[arg-type]
        blank = [not any(segment.text.strip() for segment in line) for line in lines]
        begin = next((index for index, is_blank in enumerate(blank) if not is_blank), 0)
        end = next((index for index, is_blank in enumerate(reversed(blank)) if not is_blank), 0)
        return lines[begin : len(lines) - end]

    def _plain(self, text: str, style: str) -> Sequence[Sequence[Segment]]:
        """Text as it is, folded at the width; linear however long a line is."""
        how = Style.parse(style) if style else None
        return [(Segment(line, how),) for line in fold(text, self.width)]


def fold(text: str, width: int) -> list[str]:
    """The lines of a text, each at most width cells; broken at a space where there is one."""
    from rich.cells import cell_len

    lines: list[str] = []
    for whole in text.split("\n"):
        at = 0
        while True:
            line = whole[at : at + width]
            while cell_len(line) > width:
                line = line[: max(1, len(line) - max(1, (cell_len(line) - width) // 2))]
            if at + len(line) >= len(whole):
                lines.append(line)
                break
            space = line.rfind(" ")
            if space > width // 2:
                line = line[: space + 1]
            lines.append(line.rstrip(" "))
            at += len(line)
    return lines
