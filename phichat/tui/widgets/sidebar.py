"""The list of conversations, searched while the user types."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key
from textual.message import Message
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from phichat.sanitize import sanitize_line
from phichat.services.transcript_service import HIGHLIGHT_END, HIGHLIGHT_START, ConversationEntry

_MIN_SPLIT_COLUMNS = 80
"""Columns of a terminal below which the sidebar hides the conversation."""
_KEY_HINTS = "Enter open · ↓ list · r rename\nd delete · u undo · x export"


class Sidebar(Vertical):
    """A search input over a list. It only posts requests; the screen answers with `show_entries`.

    The keys act on the highlighted conversation; the search input takes them as text while it has the focus.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "request('rename')", "Rename"),
        Binding("d,delete", "request('delete')", "Delete"),
        Binding("u", "request('undo')", "Undo the last deletion"),
        Binding("x", "request('export')", "Export"),
        Binding("slash", "focus_search", "Search"),
    ]

    @dataclass
    class SearchRequested(Message):
        """The user searches for a query; "" lists all conversations."""

        query: str

    @dataclass
    class ActionRequested(Message):
        """The user wants to open, rename, delete, undo or export; entry is only None for undo."""

        action_name: str
        entry: ConversationEntry | None

    def __init__(self) -> None:
        super().__init__()
        self._input = Input(placeholder="search all conversations", compact=True)
        self._option_list = OptionList(markup=False)
        self._entries: Sequence[ConversationEntry] = ()
        self._is_searching = self._open_when_found = self.is_fullscreen = False

    def compose(self) -> ComposeResult:
        yield self._input
        yield self._option_list
        yield Static(Text(_KEY_HINTS, "dim"), markup=False)

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def adapt_to_width(self, width: int) -> None:
        """Use all columns of a narrow terminal, so that the sidebar hides the conversation."""
        self.is_fullscreen = width < _MIN_SPLIT_COLUMNS
        self.set_class(self.is_fullscreen, "-alone")

    def toggle_open(self) -> None:
        """Show or hide the sidebar; shown, it requests its entries and takes the focus."""
        self.toggle_class("-open")
        if self.is_open:
            self._request_search(self._input.value)
            self._input.focus()

    def show_entries(self, entries: Sequence[ConversationEntry]) -> None:
        """Replace the entries; open the highlighted one if Enter was pressed while they were searched."""
        index = self._option_list.highlighted or 0
        self._entries = entries
        self._option_list.clear_options()
        self._option_list.add_options([Option(_format_entry(entry)) for entry in entries])
        self._option_list.highlighted = min(index, len(entries) - 1) if entries else None
        must_open, self._is_searching, self._open_when_found = self._open_when_found, False, False
        if must_open:
            self.action_request("open")

    def action_focus_search(self) -> None:
        """Move the focus to the search input."""
        self._input.focus()

    def action_request(self, action_name: str) -> None:
        """Post a request for an action on the highlighted conversation."""
        index = self._option_list.highlighted
        entry = None if index is None else self._entries[index]
        if entry is not None or action_name == "undo":
            self.post_message(self.ActionRequested(action_name, entry))

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._request_search(event.value)

    def _request_search(self, query: str) -> None:
        self._is_searching, self._open_when_found = True, False
        self.post_message(self.SearchRequested(query))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._is_searching:
            # Enter means a result of this query, not of the one before, which is still listed.
            self._open_when_found = True
        else:
            self.action_request("open")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.action_request("open")

    def on_key(self, event: Key) -> None:
        if event.key == "down" and self._input.has_focus:
            event.stop()
            self._option_list.focus()


def _format_entry(entry: ConversationEntry) -> Text:
    text = Text(sanitize_line(entry.title) or "(untitled)", no_wrap=True, overflow="ellipsis")
    text.append(f"\n{sanitize_line(entry.details)}", "dim")
    text.append("\n" if entry.snippet else "")
    for index, part in enumerate(entry.snippet.split(HIGHLIGHT_START)):
        highlighted, _, after = part.partition(HIGHLIGHT_END) if index else ("", "", part)
        before_gap, after_gap = (" " if edge.isspace() else "" for edge in (after[:1], after[-1:]))
        text.append(sanitize_line(highlighted), "bold")
        text.append(f"{before_gap}{sanitize_line(after)}{after_gap}", "dim")
    return text
