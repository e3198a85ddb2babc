"""The conversation: one widget that draws only the lines in view, however long it has become."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from phichat.tui.pieces import Kind, Piece
from phichat.tui.render import GUTTER, Line, Look, Renderer
from phichat.tui.turns import ShownTurn

_AT_FIRST = 8
"""Turns laid out when a conversation opens; earlier ones when somebody scrolls to them."""
_MORE = 20
_AT_MOST = 40
"""Turns that stay laid out while one reads the end, so that memory does not grow with a long talk."""

_DRAWN_AT_MOST = 1_000
"""Lines whose drawing is kept, more than a screen has."""


@dataclass(slots=True, eq=False)
class _Layout:
    """The lines of one turn, as of a version of it.

    ends: how many lines there are after each piece. kept: how many are as they were in the version before.
    """

    version: int
    lines: list[Line] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    kept: int = 0

    @property
    def warnings(self) -> Iterator[int]:
        """The line of each warning."""
        for piece, end in zip(self.pieces, self.ends, strict=True):
            if piece.kind is Kind.WARNING:
                yield end - 1


class Conversation(ScrollView, can_focus=True):
    """Shows turns, follows the newest one while its end is in view, and has one selected turn at most."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "select(-1)", "The turn above", show=False),
        Binding("down,j", "select(1)", "The turn below", show=False),
        Binding("home,g", "to_top", "The beginning", show=False),
        Binding("end,G", "to_end", "The end", show=False),
        Binding("space", "fold", "Fold or unfold reasoning and long prompts", show=False),
        Binding("n", "next_warning(1)", "The next warning", show=False),
        Binding("N", "next_warning(-1)", "The warning before", show=False),
        Binding("c", "screen.copy_text", "Copy the answer", show=False),
        Binding("y", "screen.copy_code", "Copy a code block", show=False),
        Binding("s", "screen.save_code", "Save a code block to a file", show=False),
        Binding("r", "screen.regenerate", "Answer again, beside the answer there is", show=False),
        Binding("e", "screen.edit", "Edit the prompt and send it again", show=False),
        Binding("f", "screen.fork", "Go on in a copy, from this turn", show=False),
        Binding("d,delete", "screen.delete", "Delete the turn and all that followed", show=False),
        Binding("left,h", "screen.sibling(-1)", "The other answer before this one", show=False),
        Binding("right,l", "screen.sibling(1)", "The other answer after this one", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "conversation--prompt",
        "conversation--muted",
        "conversation--accent",
        "conversation--notice",
        "conversation--warning",
        "conversation--error",
        "conversation--code",
        "conversation--selected",
    }

    class Selected(Message):
        """Another turn is selected, or none."""

        def __init__(self, turn: ShownTurn | None) -> None:
            super().__init__()
            self.turn = turn

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._turns: list[ShownTurn] = []
        self._layouts: dict[ShownTurn, _Layout] = {}
        self._tops: list[int] = []
        self._first = 0
        self._selected: ShownTurn | None = None
        self._follows = True
        self._renderer: Renderer | None = None
        self._style = self._selected_style = Style()
        self._strips: dict[int, Strip] = {}
        """Lines as they were drawn: a view that moves by a line draws the others again."""

    # What is shown

    @property
    def turns(self) -> Sequence[ShownTurn]:
        return self._turns

    @property
    def selected(self) -> ShownTurn | None:
        """The turn that acting keys mean."""
        return self._selected

    def show(self, turns: Sequence[ShownTurn]) -> None:
        """Another conversation, seen from its end."""
        self._turns = list(turns)
        self._layouts.clear()
        self._first = max(0, len(self._turns) - _AT_FIRST)
        self._select(None)
        self._lay_out()
        self._follow()

    def add(self, turn: ShownTurn) -> None:
        """A new turn at the end."""
        self._turns.append(turn)
        self._select(None)
        if len(self._turns) - self._first > _AT_MOST:
            self._first = len(self._turns) - _AT_FIRST
            for earlier in self._turns[: self._first]:
                if self._layouts.pop(earlier, None):
                    earlier.forget()
        self._lay_out()
        self._follow()

    def changed(self, turn: ShownTurn) -> None:
        """A turn has another version; the view stays at the end if it was there."""
        known = self._layouts.get(turn)
        self._measure()
        if known is not None and known is self._layouts.get(turn) and turn is self._turns[-1]:
            first = self._tops[-1] + known.kept
            self._strips = {at: strip for at, strip in self._strips.items() if at < first}
            self.refresh_lines(first, self.virtual_size.height)
        else:
            self._redraw()
        if self._follows:
            self._follow()

    # Layout

    def _look(self) -> Look:
        def style(name: str) -> str:
            return self._component(name)

        code = self.get_component_styles("conversation--code").background
        return Look(
            dark=self.app.current_theme.dark,
            prompt=style("prompt"),
            muted=style("muted"),
            accent=style("accent"),
            notice=style("notice"),
            warning=style("warning"),
            error=style("error"),
            code_background=code.rich_color.name if code.a else "default",
        )

    def _component(self, name: str) -> str:
        styles = self.get_component_styles(f"conversation--{name}")
        bold = "bold " if styles.text_style.bold else ""
        # Muted colours are transparent ones, which a terminal does not know.
        return f"{bold}{(self.background_colors[1] + styles.color).rich_color.name}"

    def _lay_out(self) -> None:
        self._measure()
        self._redraw()

    def _redraw(self) -> None:
        """Draw all lines anew."""
        self._strips.clear()
        self.refresh()

    def _measure(self) -> None:
        """Bring the lines up to date; only turns whose version changed are rendered."""
        width = self.scrollable_content_region.width - GUTTER
        if width < 1:
            return
        if self._renderer is None or self._renderer.width != max(10, width):
            self._renderer = Renderer(self._look(), width)
            self._style = self.rich_style
            self._selected_style = self.get_component_rich_style("conversation--selected", partial=True)
            self._layouts.clear()
        self._tops = []
        top = 1 if self._first else 0
        for turn in self._turns[self._first :]:
            self._tops.append(top)
            top += len(self._layout(turn).lines) + 1
        self._resize(Size(width, top))

    def _resize(self, size: Size) -> None:
        if self.show_vertical_scrollbar and size.height > self.size.height:
            # Another layout of the whole screen for each new line would cost more than drawing it.
            self.set_reactive(Widget.virtual_size, size)
            self.vertical_scrollbar.window_virtual_size = size.height
        else:
            self.virtual_size = size

    def _layout(self, turn: ShownTurn) -> _Layout:
        assert self._renderer is not None
        known = self._layouts.get(turn)
        if known is None:
            known = self._layouts[turn] = _Layout(-1)
        if known.version == turn.version:
            return known
        pieces = turn.pieces()
        # While an answer grows only its last pieces are new.
        pairs = zip(known.pieces, pieces, strict=False)
        same = min(len(known.pieces), len(pieces))
        same = next((at for at, (old, new) in enumerate(pairs) if old is not new and old != new), same)
        known.kept = known.ends[same - 1] if same else 0
        del known.lines[known.kept :]
        del known.pieces[same:], known.ends[same:]
        for piece in pieces[same:]:
            self._append(known, piece)
        known.version = turn.version
        return known

    def _append(self, layout: _Layout, piece: Piece) -> None:
        assert self._renderer is not None
        before = layout.pieces[-1].kind if layout.pieces else None
        goes_on = piece.kind is before is not Kind.MARKDOWN or piece.kind is Kind.WARNING
        if before is not None and not goes_on:
            layout.lines.append(())
        layout.lines += self._renderer.lines(piece)
        layout.pieces.append(piece)
        layout.ends.append(len(layout.lines))

    def _follow(self) -> None:
        self._follows = True
        self._go_to(self.max_scroll_y)

    def _go_to(self, y: int) -> None:
        # By force: whether it may scroll is only known after the next layout.
        self.scroll_to(y=y, animate=False, immediate=True, force=True)

    def on_resize(self, event: Resize) -> None:
        self._lay_out()
        if self._follows:
            self._follow()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        # Called for each change of focus too, which changes no colour.
        if self._renderer is not None:
            self._style = self.rich_style
            self._strips.clear()
            if self._renderer.look != self._look():
                self._renderer = None
                self._lay_out()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows = new_value >= self.max_scroll_y - 1
        if new_value < 1 and self._first and old_value > new_value:
            self._earlier(_MORE)

    def _earlier(self, count: int) -> None:
        """Lay out more turns above, without moving what is in view."""
        height = self.virtual_size.height
        self._first = max(0, self._first - count)
        self._lay_out()
        self._go_to(self.scroll_offset.y + self.virtual_size.height - height)

    # Drawing

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        at = self.scroll_offset.y + y
        known = self._strips.get(at)
        if known is None or known.cell_length != width:
            if len(self._strips) >= _DRAWN_AT_MOST:
                self._strips.clear()
            known = self._strips[at] = self._drawn(at, width)
        return known

    def _drawn(self, at: int, width: int) -> Strip:
        style = self._style
        strip = self._line(at)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(at)) is not None:
            begin, end = span
            chosen = self.screen.get_component_rich_style("screen--selection")
            end = strip.cell_length if end == -1 else end
            begin, end = min(begin, strip.cell_length), min(end, strip.cell_length)
            before, inside, after = strip.crop(0, begin), strip.crop(begin, end), strip.crop(end)
            strip = Strip.join([before, Strip(Segment.apply_style(inside, post_style=chosen)), after])
        return strip.crop_extend(0, width, style).apply_style(style).apply_offsets(0, at)

    def _line(self, at: int) -> Strip:
        if self._first and at == 0:
            word = "turn" if self._first == 1 else "turns"
            return Strip([Segment(f"  ↑ {self._first:,} earlier {word}", Style.parse(self._component("muted")))])
        index = bisect_right(self._tops, at) - 1
        if index < 0:
            return Strip([])
        turn = self._turns[self._first + index]
        lines = self._layouts[turn].lines
        offset = at - self._tops[index]
        if offset >= len(lines):
            return Strip([])
        line = lines[offset]
        if turn is self._selected:
            return Strip([Segment("┃ ", self._selected_style), *line[1:]])
        return Strip(line)

    @property
    def allow_select(self) -> bool:
        return True

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        text = "\n".join(self._line(at).text.rstrip() for at in range(self.virtual_size.height))
        return selection.extract(text), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self._redraw()

    # Acting

    def _select(self, turn: ShownTurn | None) -> None:
        if turn is not self._selected:
            self._selected = turn
            self.post_message(self.Selected(turn))
            self._redraw()

    def select(self, turn: ShownTurn | None) -> None:
        """Select a turn and bring it into view."""
        self._select(turn)
        if turn is None or turn not in self._turns or not self._tops:
            return
        index = self._turns.index(turn)
        if index < self._first:
            self._earlier(self._first - index)
        top = self._tops[index - self._first]
        height = len(self._layouts[turn].lines)
        if top < self.scroll_offset.y or top + height > self.scroll_offset.y + self.size.height:
            self._go_to(top)

    def action_select(self, step: int) -> None:
        """Select the turn above or below."""
        if not self._turns:
            return
        here = self._selected
        index = len(self._turns) - 1 if here is None else self._turns.index(here) + step
        if index >= len(self._turns):
            self._select(None)
            self._follow()
        else:
            self.select(self._turns[max(0, index)])

    def action_to_top(self) -> None:
        """The beginning of the conversation."""
        self._first = 0
        self._lay_out()
        self._go_to(0)

    def action_to_end(self) -> None:
        """The newest line."""
        self._follow()

    def action_fold(self) -> None:
        """Fold or unfold the selected turn, or the last one."""
        turn = self._selected or (self._turns[-1] if self._turns else None)
        if turn is not None:
            turn.toggle()
            self._lay_out()

    def action_next_warning(self, step: int) -> None:
        """Bring the next warning of the code check into view, and select its turn."""
        self._first = 0
        self._lay_out()
        places = [
            (top + line, turn)
            for top, turn in zip(self._tops, self._turns, strict=True)
            for line in self._layouts[turn].warnings
        ]
        if not places:
            self.notify("No code was warned about in this conversation.", markup=False)
            return
        middle = self.scroll_offset.y + self.size.height // 2
        if step > 0:
            line, turn = next((place for place in places if place[0] > middle), places[0])
        else:
            line, turn = next((place for place in reversed(places) if place[0] < middle), places[-1])
        self._select(turn)
        self._go_to(max(0, line - self.size.height // 2))

    def on_click(self, event: Click) -> None:
        at = self.scroll_offset.y + event.y
        if self._first and at == 0:
            self._earlier(_MORE)
            return
        index = bisect_right(self._tops, at) - 1
        if index >= 0:
            self._select(self._turns[self._first + index])
