"""The conversation as one widget that draws only the lines in view, however long it is."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.binding import Binding, BindingType
from textual.events import Click, Resize
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from phichat.tui.render.blocks import ItemKind, RenderItem
from phichat.tui.render.renderer import GUTTER_WIDTH, Line, Renderer, RenderTheme
from phichat.tui.turn_view import TurnView
from phichat.units import format_count

_INITIAL_TURNS = 8
"""Turns laid out when a conversation opens; earlier ones follow when the user scrolls to them."""
_EARLIER_TURNS_STEP = 20
_MAX_LAID_OUT = 40
"""Turns that remain laid out while the end is in view, so that memory does not grow with the conversation."""
_MAX_CACHED_STRIPS = 1_000
"""Drawn lines that are cached; a screen has fewer."""
_STYLE_NAMES = ("prompt", "muted", "accent", "notice", "warning", "error")


@dataclass(slots=True, eq=False)
class _TurnLayout:
    """The lines of one version of a turn.

    item_ends: number of lines up to the end of each item. unchanged_lines: leading lines equal to the version before.
    """

    version: int
    lines: list[Line] = field(default_factory=list)
    items: list[RenderItem] = field(default_factory=list)
    item_ends: list[int] = field(default_factory=list)
    unchanged_lines: int = 0


class ConversationView(ScrollView, can_focus=True):
    """Show turns, follow the newest one while its end is in view, and have at most one selected turn."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "select_step(-1)", "Previous turn", show=False),
        Binding("down,j", "select_step(1)", "Next turn", show=False),
        Binding("home,g", "jump_to_top", "Top", show=False),
        Binding("end,G", "jump_to_end", "Bottom", show=False),
        Binding("space", "toggle_fold", "Fold or unfold reasoning, files and long prompts", show=False),
        Binding("n", "next_warning(1)", "Next warning", show=False),
        Binding("N", "next_warning(-1)", "Previous warning", show=False),
        Binding("c", "screen.copy_answer", "Copy the answer", show=False),
        Binding("y", "screen.copy_code", "Copy a code block", show=False),
        Binding("s", "screen.save_code", "Save a code block to a file", show=False),
        Binding("r", "screen.regenerate", "Regenerate (the old answer is kept)", show=False),
        Binding("e", "screen.edit_prompt", "Edit the prompt and send it again", show=False),
        Binding("f", "screen.fork_conversation", "Fork from this turn", show=False),
        Binding("d,delete", "screen.delete_turn", "Delete this turn and everything after it", show=False),
        Binding("left,h", "screen.show_sibling(-1)", "Previous answer (‹)", show=False),
        Binding("right,l", "screen.show_sibling(1)", "Next answer (›)", show=False),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {f"conversation--{name}" for name in (*_STYLE_NAMES, "code", "selected")}

    def __init__(self) -> None:
        super().__init__()
        self.turns: list[TurnView] = []
        self.selected_turn: TurnView | None = None
        self._layouts: dict[TurnView, _TurnLayout] = {}
        self._turn_tops: list[int] = []
        self._first_turn = 0
        self._follows_end = True
        self._renderer: Renderer | None = None
        self._style = self._selected_style = Style()
        self._strip_cache: dict[int, Strip] = {}
        """Drawn lines: a view that moves by one line draws all others again."""

    @property
    def target_turn(self) -> TurnView | None:
        """The turn that keys act on: the selected one, else the last one."""
        return self.selected_turn or next(reversed(self.turns), None)

    def show_turns(self, turns: Sequence[TurnView]) -> None:
        """Replace all turns, and show the end."""
        self.turns = list(turns)
        self._layouts.clear()
        self._first_turn = max(0, len(self.turns) - _INITIAL_TURNS)
        self._set_selected(None)
        self._lay_out()
        self.action_jump_to_end()

    def add_turn(self, turn: TurnView) -> None:
        """Append a turn, and show the end."""
        self.turns.append(turn)
        self._set_selected(None)
        if len(self.turns) - self._first_turn > _MAX_LAID_OUT:
            self._first_turn = len(self.turns) - _INITIAL_TURNS
            for earlier in self.turns[: self._first_turn]:
                if self._layouts.pop(earlier, None):
                    earlier.drop_cache()
        self._lay_out()
        self.action_jump_to_end()

    def update_turn(self, turn: TurnView) -> None:
        """Render a turn whose version changed; the view follows the end if it was there."""
        layout = self._layouts.get(turn)
        self._update_layouts()
        if layout is not None and layout is self._layouts.get(turn) and turn is self.turns[-1]:
            first_line = self._turn_tops[-1] + layout.unchanged_lines
            self._strip_cache = {y: strip for y, strip in self._strip_cache.items() if y < first_line}
            self.refresh_lines(first_line, self.virtual_size.height)
        else:
            self._redraw_all()
        if self._follows_end:
            self.action_jump_to_end()

    # Layout

    def _build_theme(self) -> RenderTheme:
        styles = {name: self._component_style(name) for name in _STYLE_NAMES}
        code = self.get_component_styles("conversation--code").background
        background = code.rich_color.name if code.a else "default"
        return RenderTheme(dark=self.app.current_theme.dark, **styles, code_background=background)

    def _component_style(self, name: str) -> str:
        styles = self.get_component_styles(f"conversation--{name}")
        bold = "bold " if styles.text_style.bold else ""
        # Muted colours are transparent, which a terminal cannot show.
        return f"{bold}{(self.background_colors[1] + styles.color).rich_color.name}"

    def _lay_out(self) -> None:
        self._update_layouts()
        self._redraw_all()

    def _redraw_all(self) -> None:
        self._strip_cache.clear()
        self.refresh()

    def _update_layouts(self) -> None:
        """Render the turns whose version changed, and place all of them."""
        width = self.scrollable_content_region.width - GUTTER_WIDTH
        if width < 1:
            return
        if self._renderer is None or self._renderer.width != max(10, width):
            self._renderer = Renderer(self._build_theme(), width)
            self._style = self.rich_style
            self._selected_style = self.get_component_rich_style("conversation--selected", partial=True)
            self._layouts.clear()
        self._turn_tops = []
        turn_top = 1 if self._first_turn else 0
        for turn in self.turns[self._first_turn :]:
            self._turn_tops.append(turn_top)
            turn_top += len(self._layout_turn(turn, self._renderer).lines) + 1
        size = Size(width, turn_top)
        if self.show_vertical_scrollbar and size.height > self.size.height:
            # Another layout of the whole screen for each new line would cost more than drawing it.
            self.set_reactive(Widget.virtual_size, size)
            self.vertical_scrollbar.window_virtual_size = size.height
        else:
            self.virtual_size = size

    def _layout_turn(self, turn: TurnView, renderer: Renderer) -> _TurnLayout:
        layout = self._layouts.setdefault(turn, _TurnLayout(-1))
        if layout.version == turn.version:
            return layout
        items = turn.render_items()
        # While an answer grows only its last items are new.
        pairs = zip(layout.items, items, strict=False)
        unchanged = sum(1 for _ in takewhile(lambda pair: pair[0] is pair[1] or pair[0] == pair[1], pairs))
        layout.unchanged_lines = layout.item_ends[unchanged - 1] if unchanged else 0
        del layout.lines[layout.unchanged_lines :]
        del layout.items[unchanged:], layout.item_ends[unchanged:]
        for item in items[unchanged:]:
            previous_kind = layout.items[-1].kind if layout.items else None
            continues = item.kind is previous_kind is not ItemKind.MARKDOWN or item.kind is ItemKind.WARNING
            if previous_kind is not None and not continues:
                layout.lines.append(())
            layout.lines += renderer.render_lines(item)
            layout.items.append(item)
            layout.item_ends.append(len(layout.lines))
        layout.version = turn.version
        return layout

    def action_jump_to_end(self) -> None:
        """Scroll to the bottom of the conversation, and follow it."""
        self._follows_end = True
        self._scroll_to_line(self.max_scroll_y)

    def _scroll_to_line(self, y: int) -> None:
        # Forced, because only the next layout determines whether the widget can scroll.
        self.scroll_to(y=y, animate=False, immediate=True, force=True)

    def on_resize(self, event: Resize) -> None:
        self._lay_out()
        if self._follows_end:
            self.action_jump_to_end()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        # Also called for changes of focus, which change no colours.
        if self._renderer is not None:
            self._style = self.rich_style
            self._strip_cache.clear()
            if self._renderer.theme != self._build_theme():
                self._renderer = None
                self._lay_out()

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._follows_end = new_value >= self.max_scroll_y - 1
        if new_value < 1 and self._first_turn and old_value > new_value:
            self._load_earlier(_EARLIER_TURNS_STEP)

    def _load_earlier(self, count: int) -> None:
        """Lay out more turns above, without moving the visible lines."""
        height = self.virtual_size.height
        self._first_turn = max(0, self._first_turn - count)
        self._lay_out()
        self._scroll_to_line(self.scroll_offset.y + self.virtual_size.height - height)

    # Drawing

    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        line = self.scroll_offset.y + y
        strip = self._strip_cache.get(line)
        if strip is None or strip.cell_length != width:
            if len(self._strip_cache) >= _MAX_CACHED_STRIPS:
                self._strip_cache.clear()
            strip = self._strip_cache[line] = self._draw_line(line, width)
        return strip

    def _draw_line(self, line: int, width: int) -> Strip:
        style = self._style
        strip = self._line_strip(line)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(line)) is not None:
            start, end = (min(strip.cell_length if column == -1 else column, strip.cell_length) for column in span)
            selection_style = self.screen.get_component_rich_style("screen--selection")
            selected = Strip(Segment.apply_style(strip.crop(start, end), post_style=selection_style))
            strip = Strip.join([strip.crop(0, start), selected, strip.crop(end)])
        return strip.crop_extend(0, width, style).apply_style(style).apply_offsets(0, line)

    def _line_strip(self, y: int) -> Strip:
        if self._first_turn and y == 0:
            text = f"  ↑ {format_count(self._first_turn, 'earlier turn')}"
            return Strip([Segment(text, Style.parse(self._component_style("muted")))])
        index = bisect_right(self._turn_tops, y) - 1
        if index < 0:
            return Strip([])
        turn = self.turns[self._first_turn + index]
        lines, offset = self._layouts[turn].lines, y - self._turn_tops[index]
        if offset < len(lines) and turn is self.selected_turn:
            return Strip([Segment("┃ ", self._selected_style), *lines[offset][1:]])
        return Strip(lines[offset] if offset < len(lines) else [])

    @property
    def allow_select(self) -> bool:
        return True

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        text = "\n".join(self._line_strip(y).text.rstrip() for y in range(self.virtual_size.height))
        return selection.extract(text), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        self._redraw_all()

    # Selection

    def _set_selected(self, turn: TurnView | None) -> None:
        if turn is not self.selected_turn:
            self.selected_turn = turn
            self._redraw_all()

    def select_turn(self, turn: TurnView | None) -> None:
        """Select a turn and bring it into view."""
        self._set_selected(turn)
        if turn is None or turn not in self.turns or not self._turn_tops:
            return
        index = self.turns.index(turn)
        if index < self._first_turn:
            self._load_earlier(self._first_turn - index)
        top = self._turn_tops[index - self._first_turn]
        height = len(self._layouts[turn].lines)
        if top < self.scroll_offset.y or top + height > self.scroll_offset.y + self.size.height:
            self._scroll_to_line(top)

    def select_turn_id(self, turn_id: str) -> None:
        """Select the turn with this id; none if it is not shown."""
        self.select_turn(next((turn for turn in self.turns if turn.id == turn_id), None))

    def action_select_step(self, step: int) -> None:
        """Select the previous or next turn."""
        if not self.turns:
            return
        current = self.selected_turn
        index = len(self.turns) - 1 if current is None else self.turns.index(current) + step
        if index >= len(self.turns):
            self._set_selected(None)
            self.action_jump_to_end()
        else:
            self.select_turn(self.turns[max(0, index)])

    def action_jump_to_top(self) -> None:
        """Scroll to the top of the conversation."""
        self._first_turn = 0
        self._lay_out()
        self._scroll_to_line(0)

    def action_toggle_fold(self) -> None:
        """Fold or unfold the selected turn, or the last one."""
        if turn := self.target_turn:
            turn.toggle_fold()
            self._lay_out()

    def action_next_warning(self, step: int) -> None:
        """Scroll to the next or previous code warning, and select its turn."""
        self._first_turn = 0
        self._lay_out()
        warnings = [
            (top + end - 1, turn)
            for top, turn in zip(self._turn_tops, self.turns, strict=True)
            for item, end in zip(self._layouts[turn].items, self._layouts[turn].item_ends, strict=True)
            if item.kind is ItemKind.WARNING
        ]
        if not warnings:
            self.notify("There are no code warnings in this conversation.", markup=False)
            return
        middle = self.scroll_offset.y + self.size.height // 2
        if step > 0:
            line, turn = next((warning for warning in warnings if warning[0] > middle), warnings[0])
        else:
            line, turn = next((warning for warning in reversed(warnings) if warning[0] < middle), warnings[-1])
        self._set_selected(turn)
        self._scroll_to_line(max(0, line - self.size.height // 2))

    def on_click(self, event: Click) -> None:
        y = self.scroll_offset.y + event.y
        if self._first_turn and y == 0:
            self._load_earlier(_EARLIER_TURNS_STEP)
            return
        index = bisect_right(self._turn_tops, y) - 1
        if index >= 0:
            self._set_selected(self.turns[self._first_turn + index])
