"""The list of models: the installed ones, those to download, and whether they fit this machine."""

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Key
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from phichat.errors import PhichatError
from phichat.sanitize import sanitize_line
from phichat.services.model_catalog import CatalogEntry, ModelCatalog
from phichat.tui.background import run_in_thread
from phichat.tui.screens.dialogs import Dialog
from phichat.tui.widgets.model_row import format_model_row

_KEY_HINTS = "● installed: Enter to use   ○ available: Enter to download   Ctrl+U unload"


class ModelPicker(Dialog[CatalogEntry | Literal["unload"]]):
    """Type to filter; Enter picks a model to use or to download, or searches Hugging Face if none matches."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # With priority over the input, where the key would delete to the left.
        Binding("ctrl+u", "dismiss('unload')", "Unload the current model", priority=True),
        Binding("escape", "dismiss(None)", "Close"),
    ]

    def __init__(self, catalog: ModelCatalog, current_model: str, filter_text: str) -> None:
        self._catalog, self._current_model = catalog, current_model
        self._input = Input(filter_text, placeholder="type to filter, or search Hugging Face", compact=True)
        self._options, self._status = OptionList(markup=False), Static("", markup=False)
        hints = Static(Text(_KEY_HINTS, "dim"), markup=False)
        super().__init__("Models", self._input, self._options, self._status, hints, is_wide=True)
        self._entries: Sequence[CatalogEntry] = ()
        self._matches: Sequence[CatalogEntry] = ()
        self._is_fetching = self._pick_when_loaded = False

    def on_mount(self) -> None:
        self._fetch_entries(self._catalog.entries, "looking for installed models…")

    def _fetch_entries(self, fetch: Callable[[], Sequence[CatalogEntry]], status: str) -> None:
        self._set_status(status)
        self._is_fetching = True
        run_in_thread(self, "models", fetch, self._on_entries, self._on_fetch_error)

    def _on_entries(self, entries: Sequence[CatalogEntry]) -> None:
        self._is_fetching, self._entries = False, entries
        self._set_status("" if entries else "no matches")
        self._filter_entries()
        if self._pick_when_loaded and self.is_mounted:
            self._pick_when_loaded = False
            self._pick_entry(self._options.highlighted)

    def _on_fetch_error(self, error: PhichatError) -> None:
        self._is_fetching = self._pick_when_loaded = False
        self._set_status(f"{error}")

    def _set_status(self, status: str) -> None:
        if self.is_mounted:
            self._status.update(Text(sanitize_line(status), "dim"))
            self._status.display = bool(status)

    def _filter_entries(self) -> None:
        if not self.is_mounted:
            return
        terms = self._input.value.lower().split()
        self._matches = [
            each for each in self._entries if all(term in f"{each.name} {each.details}".lower() for term in terms)
        ]
        rows = (format_model_row(each, is_current=each.name == self._current_model) for each in self._matches)
        self._options.clear_options()
        self._options.add_options(map(Option, rows))
        self._options.highlighted = 0 if self._matches else None
        if terms and not self._matches:
            self._set_status("No local match. Enter searches Hugging Face.")

    def on_input_changed(self) -> None:
        self._filter_entries()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._is_fetching:
            self._pick_when_loaded = True  # the entries may contain what was typed
        elif self._matches:
            self._pick_entry(self._options.highlighted)
        elif query := event.value.strip():
            self._input.value = ""
            self._fetch_entries(lambda: self._catalog.search_hub(query), f"searching Hugging Face for {query}…")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._pick_entry(event.option_index)

    def _pick_entry(self, index: int | None) -> None:
        if index is not None and index < len(self._matches):
            self.dismiss(self._matches[index])

    def on_key(self, event: Key) -> None:
        if event.key in ("up", "down") and self._input.has_focus:
            event.stop()
            move = self._options.action_cursor_down if event.key == "down" else self._options.action_cursor_up
            move()
