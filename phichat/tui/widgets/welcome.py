"""The welcome page: examples to try, and the installed models."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    "What should I check before renaming a database column?",
)
"""Prompts that a small model can answer, one of them with code to check."""

_MAX_LISTED_MODELS = 5
"""Models on the page; the model picker lists all."""
_INTRODUCTION = "Chat with a model running on this machine. Nothing leaves it."
_KEY_HINTS = "Enter send · Esc stop · Ctrl+P all actions · F1 help"


class Welcome(VerticalScroll, can_focus=False):
    """Shown while the conversation is empty; the models follow when they are known."""

    @dataclass
    class ExamplePicked(Message):
        """The user picked an example prompt."""

        prompt: str

    @dataclass
    class ModelPicked(Message):
        """The user picked a model to use or to download."""

        entry: CatalogEntry

    _entries: Sequence[CatalogEntry] = ()

    def compose(self) -> ComposeResult:
        yield Static(Text.assemble(("phichat", "bold"), f"\n{_INTRODUCTION}"), markup=False)
        heading = Text.assemble(("Try one", "bold"), ("   press its number and Enter, or click it", "dim"))
        yield Static(heading, classes="heading", markup=False)
        examples = (Text.assemble((f"{number} ", "bold"), prompt) for number, prompt in enumerate(EXAMPLE_PROMPTS, 1))
        yield OptionList(*map(Option, examples), id="try", markup=False)
        yield Static("", id="here", classes="heading", markup=False)
        yield OptionList(id="models", markup=False)
        yield Static(Text(_KEY_HINTS, "dim"), markup=False)

    def on_mount(self) -> None:
        for each in self.query(OptionList):
            each.highlighted = None

    def show_models(self, entries: Sequence[CatalogEntry]) -> None:
        """List the installed models; without any, the recommended one."""
        installed = [entry for entry in entries if entry.installed]
        recommended = recommend(entries)
        self._entries = installed[:_MAX_LISTED_MODELS] if installed else [recommended] if recommended else []
        heading = Text("Installed models" if installed else "No model installed yet.", "bold")
        if not installed:
            heading.append(" Press Ctrl+O, or click one to download it:", "not bold")
        elif len(installed) > _MAX_LISTED_MODELS:
            heading.append(f"   {len(installed) - _MAX_LISTED_MODELS} more: Ctrl+O", "not bold dim")
        self.query_one("#here", Static).update(heading)
        models = self.query_one("#models", OptionList)
        models.clear_options()
        models.add_options([Option(format_model_row(entry)) for entry in self._entries])
        models.highlighted = None

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_list.id == "try":
            self.post_message(self.ExamplePicked(EXAMPLE_PROMPTS[event.option_index]))
        else:
            self.post_message(self.ModelPicked(self._entries[event.option_index]))
