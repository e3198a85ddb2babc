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

from phichat.desk import END, FOUND, Listed
from phichat.terminal import clean_line

_NARROW = 80
"""Columns of the terminal below which there is no room for anything beside it."""
_KEYS = "Enter opens; Down goes to the list:\nr rename d delete u undo x export"


class ConversationList(OptionList):
    """What was found; the keys act on the highlighted one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "act('rename')", "Give it another title"),
        Binding("d,delete", "act('delete')", "Delete it"),
        Binding("u", "act('undo')", "Bring back what was deleted last"),
        Binding("x", "act('export')", "Export it"),
        Binding("slash", "search", "Search"),
    ]

    def action_act(self, act: str) -> None:
        """Ask for something to be done."""
        sidebar = self.parent
        assert isinstance(sidebar, Sidebar)
        sidebar.choose(act)

    def action_search(self) -> None:
        """Back to the words searched for."""
        assert self.parent is not None
        self.parent.query_one(Input).focus()


class Sidebar(Vertical):
    """A search line over a list. It knows no store: it says what is wanted, and is given a list."""

    class Wanted(Message):
        """The list for this search; all conversations when it is empty."""

        def __init__(self, query: str) -> None:
            super().__init__()
            self.query = query

    class Chosen(Message):
        """Something is to be done with a conversation: open, rename, delete, undo or export."""

        def __init__(self, act: str, listed: Listed | None) -> None:
            super().__init__()
            self.act, self.listed = act, listed

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._shown: Sequence[Listed] = ()
        self._waits = self._opens = False

    def compose(self) -> ComposeResult:
        yield Input(placeholder="search all that was said", compact=True)
        yield ConversationList(markup=False)
        yield Static(Text(_KEYS, "dim"), markup=False)

    @property
    def _list(self) -> OptionList:
        return self.query_one(OptionList)

    @property
    def is_open(self) -> bool:
        return self.has_class("-open")

    def fit(self, width: int) -> None:
        """Take all columns of a narrow terminal."""
        self.set_class(width < _NARROW, "-alone")

    @property
    def is_alone(self) -> bool:
        """Whether it hides the conversation."""
        return self.has_class("-alone")

    def toggle(self) -> None:
        """Show or hide it; shown, it asks for its list and takes the keys."""
        self.toggle_class("-open")
        if self.is_open:
            self._want(self.query_one(Input).value)
            self.query_one(Input).focus()

    def show(self, listed: Sequence[Listed]) -> None:
        """What was asked for."""
        at = self._list.highlighted
        self._shown = listed
        self._list.clear_options()
        self._list.add_options([Option(_entry(one)) for one in listed])
        self._list.highlighted = min(at or 0, len(listed) - 1) if listed else None
        opens, self._waits, self._opens = self._opens, False, False
        if opens:
            self.choose("open")

    def choose(self, act: str) -> None:
        """Ask for something to be done with the highlighted conversation."""
        at = self._list.highlighted
        one = self._shown[at] if at is not None and at < len(self._shown) else None
        if one is not None or act == "undo":
            self.post_message(self.Chosen(act, one))

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._want(event.value)

    def _want(self, query: str) -> None:
        self._waits, self._opens = True, False
        self.post_message(self.Wanted(query))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if self._waits:
            # Enter means what the words find, not what is still listed for the words before.
            self._opens = True
        else:
            self.choose("open")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.choose("open")

    def on_key(self, event: Key) -> None:
        if event.key == "down" and self.query_one(Input).has_focus:
            event.stop()
            self._list.focus()


def _entry(one: Listed) -> Text:
    text = Text(clean_line(one.title) or "(no words)", no_wrap=True, overflow="ellipsis")
    text.append(f"\n{clean_line(one.about)}", "dim")
    if one.snippet:
        text.append("\n")
        text.append_text(_snippet(one.snippet))
    return text


def _snippet(snippet: str) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for index, part in enumerate(snippet.split(FOUND)):
        found, _, rest = part.partition(END) if index else ("", "", part)
        text.append(clean_line(found), "bold")
        text.append(
            (" " if rest[:1].isspace() else "") + clean_line(rest) + (" " if rest[-1:].isspace() else ""), "dim"
        )
    return text
