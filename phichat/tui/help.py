"""The help and the titles of the command palette, generated from the key bindings and slash commands."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text
from textual.binding import Binding, BindingType

from phichat.chat.slash_commands import COMMANDS
from phichat.tui.screens.model_picker import ModelPicker
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import PromptInput
from phichat.tui.widgets.sidebar import Sidebar

_KEY_NAMES = {"escape": "Esc", "pageup": "PageUp", "pagedown": "PageDown", "slash": "/"}
_KEY_COLUMN_WIDTH = 23


def iter_sections(global_bindings: Iterable[BindingType]) -> Iterator[tuple[str, Sequence[Binding]]]:
    """Yield the title and the key bindings of each section. global_bindings: those of the chat screen and the app."""
    yield "In the prompt", filter_bindings([*PromptInput.HELP_BINDINGS, *PromptInput.BINDINGS])
    yield "Anywhere", filter_bindings(global_bindings)
    yield "Turns (Ctrl+T)", filter_bindings(ConversationView.BINDINGS)
    yield "Conversations (F2)", filter_bindings(Sidebar.BINDINGS)
    yield "Models (Ctrl+O)", filter_bindings(ModelPicker.BINDINGS)


def build_help(global_bindings: Iterable[BindingType]) -> RenderableType:
    """Return a table of all keys and slash commands."""
    table = Table.grid(Column(width=_KEY_COLUMN_WIDTH), Column(), padding=(0, 2, 0, 0))

    def add_section(heading: str, rows: Iterable[tuple[str, str]]) -> None:
        table.add_row(Text(heading, "bold underline"))
        for left, right in rows:
            table.add_row(Text(left, "bold"), Text(right))
        table.add_row("")

    for heading, bindings in iter_sections(global_bindings):
        add_section(heading, ((format_keys(binding), binding.description) for binding in bindings))
    add_section("Commands", ((command.usage, command.description) for command in COMMANDS))
    add_section("Prefixes", (("@path", "attaches a file"), ("//text", "sends a prompt that starts with /")))
    return table


def filter_bindings(bindings: Iterable[BindingType]) -> list[Binding]:
    """Return the bindings that have a description; Textual also allows tuples."""
    return [each for each in bindings if isinstance(each, Binding)]


def format_keys(binding: Binding) -> str:
    """Return the keys of a binding, as they are labelled on a keyboard."""
    return ", ".join(map(format_key, binding.key.split(",")))


def format_key(key: str) -> str:
    """Return a key, as it is labelled on a keyboard."""
    *modifiers, base_key = key.strip().split("+")
    # A letter with Ctrl is a capital, as on the key; alone it is written as it is typed.
    base_key = _KEY_NAMES.get(base_key, base_key.capitalize() if len(base_key) > 1 or modifiers else base_key)
    return "+".join([*map(str.capitalize, modifiers), base_key])
