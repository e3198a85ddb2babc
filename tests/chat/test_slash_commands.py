"""The registry of slash commands, and that each of them does something in every front end."""

import pytest

from phichat.chat.slash_commands import COMMANDS, Command, complete_command, parse_command
from phichat.cli.plain_chat import PlainChat
from phichat.errors import UsageError
from phichat.services.chat_commands import ChatCommands
from phichat.tui.controllers.commands import CommandController


@pytest.mark.parametrize("front_end", [PlainChat, CommandController])
def test_every_command_has_a_handler_in_every_front_end(front_end: type) -> None:
    missing = [one.name for one in COMMANDS if not callable(getattr(front_end, f"run_{one.name}", None))]
    assert not missing


def test_every_handler_belongs_to_a_command() -> None:
    handlers = {name for name in dir(ChatCommands) if name.startswith("run_")}
    assert handlers == {f"run_{one.name}" for one in COMMANDS}


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ("/regen", Command("regen")),
        ("/RETRY  2 ", Command("regen", "2")),
        ("/clear", Command("new")),
        ("/?", Command("help")),
        ("//regen", None),
        ("/etc/hosts", None),
        ("/regen\nand more", None),
        ("tell me", None),
    ],
)
def test_commands_are_told_from_prompts(text: str, command: Command | None) -> None:
    assert parse_command(text) == command


def test_an_unknown_command_names_those_that_are_spelled_alike() -> None:
    with pytest.raises(UsageError) as caught:
        parse_command("/frok")
    assert str(caught.value) == "Unknown command /frok. Did you mean /fork?"
    with pytest.raises(UsageError) as caught:
        parse_command("/xyzzy")
    assert str(caught.value) == "Unknown command /xyzzy. Type /help for the list."


def test_a_beginning_completes_to_the_commands_that_begin_so() -> None:
    assert [one.name for one in complete_command("/re")] == ["regen", "read", "replay"]
    assert complete_command("/regen 1") == complete_command("re") == []


def test_names_and_aliases_are_unique() -> None:
    names = [name for one in COMMANDS for name in (one.name, *one.aliases)]
    assert len(names) == len(set(names))
