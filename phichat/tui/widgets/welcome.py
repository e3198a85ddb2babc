"""What somebody sees who has said nothing yet: what this is, what can be tried, and which models are at hand."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from phichat.shelf import ModelOffer, suggested
from phichat.tui.widgets.offers import offer_line

TO_TRY = (
    "Explain list comprehensions in Python with three short examples",
    "Write a function that finds the duplicates in a list, with tests",
    "What should I think of before I rename a column in a database?",
)
"""Prompts that show what a small model can do, and the code check."""

_SHOWN = 5
"""Models that are listed here; the switcher has them all."""


class Welcome(VerticalScroll, can_focus=False):
    """Shown while the conversation is empty. It is given the models when somebody has looked for them."""

    class Tried(Message):
        """A prompt is to be put into the box."""

        def __init__(self, prompt: str) -> None:
            super().__init__()
            self.prompt = prompt

    class Wanted(Message):
        """A model is to be used, or had."""

        def __init__(self, offer: ModelOffer) -> None:
            super().__init__()
            self.offer = offer

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._offers: Sequence[ModelOffer] = ()

    def compose(self) -> ComposeResult:
        yield Static(_about(), markup=False)
        heading = Text.assemble(("Try one", "bold"), ("   its number and Enter, or a click", "dim"))
        yield Static(heading, classes="heading", markup=False)
        tried = (Text.assemble((f"{number} ", "bold"), prompt) for number, prompt in enumerate(TO_TRY, 1))
        yield OptionList(*map(Option, tried), id="try", markup=False)
        yield Static("", id="here", classes="heading", markup=False)
        yield OptionList(id="models", markup=False)
        yield Static(_keys(), markup=False)

    def on_mount(self) -> None:
        for each in self.query(OptionList):
            each.highlighted = None

    def show(self, offers: Sequence[ModelOffer]) -> None:
        """The models that are here; without any, the one to begin with."""
        here = [offer for offer in offers if offer.installed]
        first = suggested(offers)
        self._offers = here[:_SHOWN] if here else [first] if first else []
        heading = Text("Models on this machine" if here else "No model is on this machine yet.", "bold")
        if not here:
            heading.append(" Enter here, a click, or Ctrl+O downloads one:", "not bold")
        elif len(here) > _SHOWN:
            heading.append(f"   {len(here) - _SHOWN} more with Ctrl+O", "not bold dim")
        self.query_one("#here", Static).update(heading)
        models = self.query_one("#models", OptionList)
        models.clear_options()
        models.add_options([Option(offer_line(offer)) for offer in self._offers])
        models.highlighted = None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_list.id == "try":
            self.post_message(self.Tried(TO_TRY[event.option_index]))
        else:
            self.post_message(self.Wanted(self._offers[event.option_index]))


def _about() -> Text:
    return Text.assemble(("phichat", "bold"), "\nChat with a model that runs on this machine. Nothing leaves it.")


def _keys() -> Text:
    text = Text()
    for key, does in (("Enter", "sends"), ("Esc", "stops"), ("Ctrl+P", "all actions"), ("F1", "keys")):
        text.append(f"{'   ' if text else ''}{key}", "bold")
        text.append(f" {does}", "dim")
    return text
