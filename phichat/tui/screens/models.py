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
from phichat.shelf import ModelOffer
from phichat.terminal import clean_line
from phichat.tui.widgets.offers import offer_line


@dataclass(frozen=True, slots=True)
class Picked:
    """What the user wants: to talk to this model, or to have it downloaded; None to free the memory of the other."""

    offer: ModelOffer | None


_KEYS = "● here: Enter uses it   ○ to be had: Enter downloads it   Ctrl+U frees the memory"


class ModelsScreen(ModalScreen[Picked | None]):
    """Type to filter; Enter chooses, and Enter on no match searches the hub for the words."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Before the line for typing, where it would delete to the left.
        Binding("ctrl+u", "unload", "Free the memory of the model in use", priority=True),
        Binding("escape", "cancel", "Close"),
    ]

    def __init__(
        self,
        offers: Callable[[], Sequence[ModelOffer]],
        search: Callable[[str], Sequence[ModelOffer]],
        in_use: str = "",
        filter: str = "",
    ) -> None:
        super().__init__()
        self._all, self._search = offers, search
        self._in_use, self._begin = in_use, filter
        self._offers: Sequence[ModelOffer] = ()
        self._shown: Sequence[ModelOffer] = ()
        self._looks = self._enters = False

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide"):
            yield Static(Text("Models", "bold"), markup=False)
            yield Input(self._begin, placeholder="filter, or words to search the hub for", compact=True)
            yield OptionList(markup=False)
            yield Static("", id="word", markup=False)
            yield Static(Text(_KEYS, "dim"), markup=False)

    def on_mount(self) -> None:
        self._fetch(self._all, "looking what is here")

    def _fetch(self, source: Callable[[], Sequence[ModelOffer]], word: str) -> None:
        """Ask in a thread: reading headers and asking the hub take their time."""
        self._say(word)
        self._looks = True

        def run() -> None:
            try:
                offers = source()
            except PhichatError as error:
                self.app.call_from_thread(self._failed, f"{error}")
            else:
                self.app.call_from_thread(self._found, offers)

        Thread(target=run, name="models", daemon=True).start()

    def _found(self, offers: Sequence[ModelOffer]) -> None:
        self._looks, self._offers = False, offers
        self._say("" if offers else "nothing was found")
        self._filter()
        if self._enters and self.is_mounted:
            self._enters = False
            self._pick(self.query_one(OptionList).highlighted)

    def _failed(self, why: str) -> None:
        self._looks = self._enters = False
        self._say(why)

    def _say(self, word: str) -> None:
        if self.is_mounted:
            line = self.query_one("#word", Static)
            line.update(Text(clean_line(word), "dim"))
            line.display = bool(word)

    def _filter(self) -> None:
        if not self.is_mounted:
            return
        words = self.query_one(Input).value.lower().split()
        self._shown = [
            offer for offer in self._offers if all(word in f"{offer.name} {offer.about}".lower() for word in words)
        ]
        options = self.query_one(OptionList)
        options.clear_options()
        options.add_options([Option(offer_line(offer, in_use=offer.name == self._in_use)) for offer in self._shown])
        options.highlighted = 0 if self._shown else None
        if words and not self._shown:
            self._say("Enter searches the hub for these words")

    def on_input_changed(self) -> None:
        self._filter()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._looks:
            self._enters = True  # what is typed may yet be among what is here
        elif self._shown:
            self._pick(self.query_one(OptionList).highlighted)
        elif event.value.strip():
            words = event.value
            self.query_one(Input).value = ""
            self._fetch(lambda: self._search(words), f"searching the hub for {words}")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self._pick(event.option_index)

    def _pick(self, at: int | None) -> None:
        if at is not None and at < len(self._shown):
            self.dismiss(Picked(self._shown[at]))

    def on_key(self, event: Key) -> None:
        if event.key in ("up", "down") and self.query_one(Input).has_focus:
            event.stop()
            options = self.query_one(OptionList)
            if event.key == "down":
                options.action_cursor_down()
            else:
                options.action_cursor_up()

    def action_unload(self) -> None:
        """Free the memory; the conversation stays, and the next prompt loads the model again."""
        self.dismiss(Picked(None))

    def action_cancel(self) -> None:
        self.dismiss(None)
