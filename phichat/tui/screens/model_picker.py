"""The model switcher: what is here, what can be had, and whether it fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Thread
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.events import Key
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from phichat.errors import PhichatError
from phichat.sanitize import sanitize_line
from phichat.services.model_catalog import CatalogEntry
from phichat.tui.widgets.model_row import format_model_row


@dataclass(frozen=True, slots=True)
class ModelPickerResult:
    """What the user wants: to talk to this model, or to have it downloaded; None to free the memory of the other."""

    entry: CatalogEntry | None


_KEY_HINTS = "● here: Enter uses it   ○ to be had: Enter downloads it   Ctrl+U frees the memory"


class ModelPicker(ModalScreen[ModelPickerResult | None]):
    """Type to filter; Enter chooses, and Enter on no match searches the hub for the words."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Before the line for typing, where it would delete to the left.
        Binding("ctrl+u", "unload_model", "Free the memory of the model in use", priority=True),
        Binding("escape", "cancel", "Close"),
    ]

    def __init__(
        self,
        list_entries: Callable[[], Sequence[CatalogEntry]],
        search_hub: Callable[[str], Sequence[CatalogEntry]],
        current_model: str = "",
        filter_text: str = "",
    ) -> None:
        super().__init__()
        self._list_entries, self._search_hub = list_entries, search_hub
        self._current_model, self._initial_filter = current_model, filter_text
        self._entries: Sequence[CatalogEntry] = ()
        self._matches: Sequence[CatalogEntry] = ()
        self._is_fetching = self._pick_when_loaded = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield Static(Text("Models", "bold"), markup=False)
            yield Input(self._initial_filter, placeholder="filter, or words to search the hub for", compact=True)
            yield OptionList(markup=False)
            yield Static("", id="word", markup=False)
            yield Static(Text(_KEY_HINTS, "dim"), markup=False)

    def on_mount(self) -> None:
        self._fetch_entries(self._list_entries, "looking what is here")

    def _fetch_entries(self, fetch: Callable[[], Sequence[CatalogEntry]], status: str) -> None:
        """Ask in a thread: reading headers and asking the hub take their time."""
        self._set_status(status)
        self._is_fetching = True

        def run() -> None:
            try:
                entries = fetch()
            except PhichatError as error:
                self.call_later(self._on_fetch_error, f"{error}")
            else:
                self.call_later(self._on_entries, entries)

        Thread(target=run, name="models", daemon=True).start()

    def _on_entries(self, entries: Sequence[CatalogEntry]) -> None:
        self._is_fetching, self._entries = False, entries
        self._set_status("" if entries else "nothing was found")
        self._filter_entries()
        if self._pick_when_loaded and self.is_mounted:
            self._pick_when_loaded = False
            self._pick_entry(self.query_one(OptionList).highlighted)

    def _on_fetch_error(self, error: str) -> None:
        self._is_fetching = self._pick_when_loaded = False
        self._set_status(error)

    def _set_status(self, status: str) -> None:
        if self.is_mounted:
            line = self.query_one("#word", Static)
            line.update(Text(sanitize_line(status), "dim"))
            line.display = bool(status)

    def _filter_entries(self) -> None:
        if not self.is_mounted:
            return
        terms = self.query_one(Input).value.lower().split()
        self._matches = [
            entry for entry in self._entries if all(term in f"{entry.name} {entry.details}".lower() for term in terms)
        ]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options(
            [Option(format_model_row(offer, is_current=offer.name == self._current_model)) for offer in self._matches]
        )
        options.highlighted = 0 if self._matches else None
        if terms and not self._matches:
            self._set_status("Enter searches the hub for these words")

    def on_input_changed(self) -> None:
        self._filter_entries()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._is_fetching:
            self._pick_when_loaded = True  # what is typed may yet be among what is here
        elif self._matches:
            self._pick_entry(self.query_one(OptionList).highlighted)
        elif event.value.strip():
            query = event.value
            self.query_one(Input).value = ""
            self._fetch_entries(lambda: self._search_hub(query), f"searching the hub for {query}")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._pick_entry(event.option_index)

    def _pick_entry(self, index: int | None) -> None:
        if index is not None and index < len(self._matches):
            self.dismiss(ModelPickerResult(self._matches[index]))

    def on_key(self, event: Key) -> None:
        if event.key in ("up", "down") and self.query_one(Input).has_focus:
            event.stop()
            options = self.query_one(OptionList)
            if event.key == "down":
                options.action_cursor_down()
            else:
                options.action_cursor_up()

    def action_unload_model(self) -> None:
        """Free the memory; the conversation stays, and the next prompt loads the model again."""
        self.dismiss(ModelPickerResult(None))

    def action_cancel(self) -> None:
        self.dismiss(None)
