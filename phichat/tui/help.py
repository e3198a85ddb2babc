"""The keys, as the bindings themselves say them: what is listed is what is bound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text
from textual.app import SystemCommand
from textual.binding import Binding, BindingType

from phichat.chat.commands import COMMANDS, Command

if TYPE_CHECKING:
    from phichat.tui.screens.chat import ChatScreen

_NAMES = {
    "escape": "Esc",
    "pageup": "PageUp",
    "pagedown": "PageDown",
    "slash": "/",
}
_COLUMN = 23


def sections() -> Iterator[tuple[str, Sequence[Binding]]]:
    """Where keys are bound, and how."""
    from phichat.tui.app import PhichatApp
    from phichat.tui.screens.chat import ChatScreen
    from phichat.tui.screens.models import ModelsScreen
    from phichat.tui.widgets.conversation import Conversation
    from phichat.tui.widgets.prompt import Prompt
    from phichat.tui.widgets.sidebar import ConversationList

    yield "In the prompt", _bindings([*Prompt.OWN_KEYS, *Prompt.BINDINGS])
    yield "Anywhere", _bindings([*ChatScreen.BINDINGS, *PhichatApp.BINDINGS])
    yield "Turns (Ctrl+T)", _bindings(Conversation.BINDINGS)
    yield "Conversations (F2)", _bindings(ConversationList.BINDINGS)
    yield "Models (Ctrl+O)", _bindings(ModelsScreen.BINDINGS)


def help_text() -> RenderableType:
    """All keys and slash commands."""
    table = Table.grid(Column(width=_COLUMN), Column(), padding=(0, 2, 0, 0))

    def section(heading: str, rows: Iterable[tuple[str, str]]) -> None:
        table.add_row(Text(heading, "bold underline"))
        for left, right in rows:
            table.add_row(Text(left, "bold"), Text(right))
        table.add_row("")

    for heading, bindings in sections():
        section(heading, ((shown_keys(binding), binding.description) for binding in bindings))
    section("Commands", ((command.usage, command.does) for command in COMMANDS))
    section("Beginnings", (("@", "and the beginning of a path attach a file"), ("//", "a prompt that begins with /")))
    return table


def shown_keys(binding: Binding) -> str:
    """Its keys, as they are written on a keyboard."""
    return ", ".join(map(key_name, binding.key.split(",")))


def palette(screen: ChatScreen) -> Iterator[SystemCommand]:
    """What the chat can do, by name: the actions of the keys, and the slash commands."""
    from phichat.tui.screens.chat import ChatScreen
    from phichat.tui.widgets.conversation import Conversation

    acting = [each for each in _bindings(Conversation.BINDINGS) if each.action.startswith("screen.")]
    for binding in [*_bindings(ChatScreen.BINDINGS), *acting]:
        title = f"{binding.description} ({shown_keys(binding)})"
        yield SystemCommand(title, "", lambda action=binding.action: _act(screen, action))
    yield SystemCommand("Free the memory of the model (Ctrl+U in the list of models)", "", screen.action_unload)
    for command in COMMANDS:
        needs_more = bool(command.takes) and not command.takes.startswith("[")
        yield SystemCommand(
            f"{command.does[0].upper()}{command.does[1:]} (/{command.name})",
            "",
            lambda name=command.name, fills=needs_more: (
                screen.prompt.fill(f"/{name} ") if fills else screen.run_command(Command(name))
            ),
        )


def _act(screen: ChatScreen, action: str) -> None:
    screen.run_worker(screen.run_action(action.removeprefix("screen.")))


def _bindings(declared: Iterable[BindingType]) -> list[Binding]:
    return [each for each in declared if isinstance(each, Binding)]


def key_name(key: str) -> str:
    """One key, as it is written on a keyboard."""
    *held, last = key.strip().split("+")
    # A letter with Ctrl is written as it stands on the key; alone, as it is typed.
    last = _NAMES.get(last, last.capitalize() if len(last) > 1 or held else last)
    return "+".join([*map(str.capitalize, held), last])
