"""What somebody sees who has said nothing yet: what this is, what can be tried, and which models are at hand."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from phichat.services.model_catalog import CatalogEntry, recommend
from phichat.tui.widgets.model_row import format_model_row

EXAMPLE_PROMPTS = (
    "Explain list comprehensions in Python with three short examples",
    "Write a function that finds the duplicates in a list, with tests",
    "What should I think of before I rename a column in a database?",
)
"""Prompts that show what a small model can do, and the code check."""

_MAX_LISTED_MODELS = 5
"""Models that are listed here; the switcher has them all."""


class Welcome(VerticalScroll, can_focus=False):
    """Shown while the conversation is empty. It is given the models when somebody has looked for them."""

    class ExamplePicked(Message):
        """A prompt is to be put into the box."""

        def __init__(self, prompt: str) -> None:
            super().__init__()
            self.prompt = prompt

    class ModelPicked(Message):
        """A model is to be used, or had."""

        def __init__(self, entry: CatalogEntry) -> None:
            super().__init__()
            self.entry = entry

    class ModelsLoaded(Message):
        """The models that are here and that could be, from whoever looked, in any thread."""

        def __init__(self, entries: Sequence[CatalogEntry]) -> None:
            super().__init__()
            self.entries = entries

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._entries: Sequence[CatalogEntry] = ()

    def compose(self) -> ComposeResult:
        yield Static(_intro_text(), markup=False)
        heading = Text.assemble(("Try one", "bold"), ("   its number and Enter, or a click", "dim"))
        yield Static(heading, classes="heading", markup=False)
        examples = (Text.assemble((f"{number} ", "bold"), prompt) for number, prompt in enumerate(EXAMPLE_PROMPTS, 1))
        yield OptionList(*map(Option, examples), id="try", markup=False)
        yield Static("", id="here", classes="heading", markup=False)
        yield OptionList(id="models", markup=False)
        yield Static(_key_hints(), markup=False)

    def on_mount(self) -> None:
        for each in self.query(OptionList):
            each.highlighted = None

    def on_welcome_models_loaded(self, message: ModelsLoaded) -> None:
        """List the models that are here; without any, the one to begin with."""
        message.stop()
        entries = message.entries
        installed = [entry for entry in entries if entry.installed]
        recommended = recommend(entries)
        self._entries = installed[:_MAX_LISTED_MODELS] if installed else [recommended] if recommended else []
        heading = Text("Models on this machine" if installed else "No model is on this machine yet.", "bold")
        if not installed:
            heading.append(" Enter here, a click, or Ctrl+O downloads one:", "not bold")
        elif len(installed) > _MAX_LISTED_MODELS:
            heading.append(f"   {len(installed) - _MAX_LISTED_MODELS} more with Ctrl+O", "not bold dim")
        self.query_one("#here", Static).update(heading)
        models = self.query_one("#models", OptionList)
        models.clear_options()
        models.add_options([Option(format_model_row(offer)) for offer in self._entries])
        models.highlighted = None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_list.id == "try":
            self.post_message(self.ExamplePicked(EXAMPLE_PROMPTS[event.option_index]))
        else:
            self.post_message(self.ModelPicked(self._entries[event.option_index]))


def _intro_text() -> Text:
    return Text.assemble(("phichat", "bold"), "\nChat with a model that runs on this machine. Nothing leaves it.")


def _key_hints() -> Text:
    text = Text()
    for key, description in (("Enter", "sends"), ("Esc", "stops"), ("Ctrl+P", "all actions"), ("F1", "keys")):
        text.append(f"{'   ' if text else ''}{key}", "bold")
        text.append(f" {description}", "dim")
    return text
