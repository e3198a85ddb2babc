"""The help and the command palette, generated from the key bindings and slash commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text
from textual.app import SystemCommand
from textual.binding import Binding, BindingType

from phichat.chat.slash_commands import COMMANDS, Command

if TYPE_CHECKING:
    from phichat.tui.screens.chat import ChatScreen

_KEY_NAMES = {
    "escape": "Esc",
    "pageup": "PageUp",
    "pagedown": "PageDown",
    "slash": "/",
}
_KEY_COLUMN_WIDTH = 23


def iter_sections() -> Iterator[tuple[str, Sequence[Binding]]]:
    """Yield the title and the key bindings of each section of the help."""
    from phichat.tui.app import PhichatApp
    from phichat.tui.screens.chat import ChatScreen
    from phichat.tui.screens.model_picker import ModelPicker
    from phichat.tui.widgets.conversation import ConversationView
    from phichat.tui.widgets.prompt import PromptInput
    from phichat.tui.widgets.sidebar import ConversationList

    yield "In the prompt", _filter_bindings([*PromptInput.HELP_BINDINGS, *PromptInput.BINDINGS])
    yield "Anywhere", _filter_bindings([*ChatScreen.BINDINGS, *PhichatApp.BINDINGS])
    yield "Turns (Ctrl+T)", _filter_bindings(ConversationView.BINDINGS)
    yield "Conversations (F2)", _filter_bindings(ConversationList.BINDINGS)
    yield "Models (Ctrl+O)", _filter_bindings(ModelPicker.BINDINGS)


def build_help() -> RenderableType:
    """Return a table of all keys and slash commands."""
    table = Table.grid(Column(width=_KEY_COLUMN_WIDTH), Column(), padding=(0, 2, 0, 0))

    def add_section(heading: str, rows: Iterable[tuple[str, str]]) -> None:
        table.add_row(Text(heading, "bold underline"))
        for left, right in rows:
            table.add_row(Text(left, "bold"), Text(right))
        table.add_row("")

    for heading, bindings in iter_sections():
        add_section(heading, ((format_keys(binding), binding.description) for binding in bindings))
    add_section("Commands", ((command.usage, command.description) for command in COMMANDS))
    add_section("Prefixes", (("@path", "attaches a file"), ("//text", "sends a prompt that starts with /")))
    return table


def format_keys(binding: Binding) -> str:
    """Return the keys of a binding, as they are labelled on a keyboard."""
    return ", ".join(map(format_key, binding.key.split(",")))


def iter_palette_commands(screen: ChatScreen) -> Iterator[SystemCommand]:
    """Yield the actions of the keys, and the slash commands."""
    from phichat.tui.screens.chat import ChatScreen
    from phichat.tui.widgets.conversation import ConversationView

    turn_bindings = [each for each in _filter_bindings(ConversationView.BINDINGS) if each.action.startswith("screen.")]
    for binding in [*_filter_bindings(ChatScreen.BINDINGS), *turn_bindings]:
        title = f"{binding.description} ({format_keys(binding)})"
        yield SystemCommand(title, "", lambda action=binding.action: _run_action(screen, action))
    yield SystemCommand("Unload the model (Ctrl+U in the model list)", "", screen.action_unload_model)
    for command in COMMANDS:
        needs_argument = bool(command.usage_args) and not command.usage_args.startswith("[")
        yield SystemCommand(
            f"{command.description[0].upper()}{command.description[1:]} (/{command.name})",
            "",
            lambda name=command.name, fills=needs_argument: (
                screen.context.prompt.set_text(f"/{name} ") if fills else screen.commands.run(Command(name))
            ),
        )


def _run_action(screen: ChatScreen, action: str) -> None:
    screen.run_worker(screen.run_action(action.removeprefix("screen.")))


def _filter_bindings(bindings: Iterable[BindingType]) -> list[Binding]:
    return [each for each in bindings if isinstance(each, Binding)]


def format_key(key: str) -> str:
    """Return a key, as it is labelled on a keyboard."""
    *modifiers, base_key = key.strip().split("+")
    # A letter with Ctrl is a capital, as on the key; alone it is written as it is typed.
    base_key = _KEY_NAMES.get(base_key, base_key.capitalize() if len(base_key) > 1 or modifiers else base_key)
    return "+".join([*map(str.capitalize, modifiers), base_key])
