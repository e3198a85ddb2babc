"""The conversations, searched as one types."""

from __future__ import annotations

from collections.abc import Sequence
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
"""Columns of the terminal below which there is no room for anything beside it."""
_KEY_HINTS = "Enter opens; Down goes to the list:\nr rename d delete u undo x export"


class ConversationList(OptionList):
    """What was found; the keys act on the highlighted one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "request('rename')", "Give it another title"),
        Binding("d,delete", "request('delete')", "Delete it"),
        Binding("u", "request('undo')", "Bring back what was deleted last"),
        Binding("x", "request('export')", "Export it"),
        Binding("slash", "focus_search", "Search"),
    ]

    def action_request(self, action_name: str) -> None:
        """Ask for something to be done."""
        sidebar = self.parent
        assert isinstance(sidebar, Sidebar)
        sidebar.request_action(action_name)

    def action_focus_search(self) -> None:
        """Back to the words searched for."""
        assert self.parent is not None
        self.parent.query_one(Input).focus()


class Sidebar(Vertical):
    """A search line over a list. It knows no store: it says what is wanted, and is given a list."""

    class SearchRequested(Message):
        """The list for this search; all conversations when it is empty."""

        def __init__(self, query: str) -> None:
            super().__init__()
            self.query = query

    class ActionRequested(Message):
        """Something is to be done with a conversation: open, rename, delete, undo or export."""

        def __init__(self, action_name: str, entry: ConversationEntry | None) -> None:
            super().__init__()
            self.action_name, self.entry = action_name, entry

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._entries: Sequence[ConversationEntry] = ()
        self._is_searching = self._open_when_found = False

    def compose(self) -> ComposeResult:
        yield Input(placeholder="search all that was said", compact=True)
        yield ConversationList(markup=False)
        yield Static(Text(_KEY_HINTS, "dim"), markup=False)

    @property
    def _option_list(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def adapt_to_width(self, width: int) -> None:
        """Take all columns of a narrow terminal."""
        self.set_class(width < _MIN_SPLIT_COLUMNS, "-alone")

    @property
    def is_fullscreen(self) -> bool:
        """Whether it hides the conversation."""
        return self.has_class("-alone")

    def toggle_open(self) -> None:
        """Show or hide it; shown, it asks for its list and takes the keys."""
        self.toggle_class("-open")
        if self.is_open:
            self._request_search(self.query_one(Input).value)
            self.query_one(Input).focus()

    def show_entries(self, entries: Sequence[ConversationEntry]) -> None:
        """What was asked for."""
        index = self._option_list.highlighted
        self._entries = entries
        self._option_list.clear_options()
        self._option_list.add_options([Option(_format_entry(entry)) for entry in entries])
        self._option_list.highlighted = min(index or 0, len(entries) - 1) if entries else None
        must_open, self._is_searching, self._open_when_found = self._open_when_found, False, False
        if must_open:
            self.request_action("open")

    def request_action(self, action_name: str) -> None:
        """Ask for something to be done with the highlighted conversation."""
        index = self._option_list.highlighted
        entry = self._entries[index] if index is not None and index < len(self._entries) else None
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
            # Enter means what the words find, not what is still listed for the words before.
            self._open_when_found = True
        else:
            self.request_action("open")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.request_action("open")

    def on_key(self, event: Key) -> None:
        if event.key == "down" and self.query_one(Input).has_focus:
            event.stop()
            self._option_list.focus()


def _format_entry(entry: ConversationEntry) -> Text:
    text = Text(sanitize_line(entry.title) or "(no words)", no_wrap=True, overflow="ellipsis")
    text.append(f"\n{sanitize_line(entry.details)}", "dim")
    if entry.snippet:
        text.append("\n")
        text.append_text(_format_snippet(entry.snippet))
    return text


def _format_snippet(snippet: str) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for index, part in enumerate(snippet.split(HIGHLIGHT_START)):
        highlighted, _, after = part.partition(HIGHLIGHT_END) if index else ("", "", part)
        text.append(sanitize_line(highlighted), "bold")
        text.append(
            (" " if after[:1].isspace() else "") + sanitize_line(after) + (" " if after[-1:].isspace() else ""), "dim"
        )
    return text
