"""The registry of slash commands, for every front end that takes them."""

import difflib
from dataclasses import dataclass

from phichat.errors import UsageError


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command: its name without the slash, the syntax of its arguments, one line of help, other names."""

    name: str
    usage_args: str
    description: str
    aliases: tuple[str, ...] = ()

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.usage_args}".rstrip()


COMMANDS = (
    SlashCommand("help", "", "list the commands", ("?",)),
    SlashCommand("model", "[NAME]", "switch models, keeping the conversation"),
    SlashCommand("system", "[TEXT]", "show or set the system prompt ('-' removes it)"),
    SlashCommand("set", "[OPTION VALUE]", "show or set an option, such as temperature 0.2"),
    SlashCommand("new", "", "start a new conversation", ("clear",)),
    SlashCommand("regen", "", "regenerate the last answer (the old one is kept)", ("regenerate", "retry")),
    SlashCommand("undo", "", "take back the last prompt and its answer"),
    SlashCommand("edit", "[TEXT]", "change the last prompt and send it again"),
    SlashCommand("fork", "[N]", "continue in a copy that ends at turn N"),
    SlashCommand("read", "FILE", "attach a text file to the next prompt"),
    SlashCommand("context", "", "show what the model sees, turn by turn"),
    SlashCommand("stats", "", "show tokens and timings of the last answer"),
    SlashCommand("think", "", "show or hide the model's reasoning"),
    SlashCommand("copy", "[code]", "copy the last answer, or its last code block"),
    SlashCommand("export", "[FORMAT] [FILE]", "export the conversation as md, html, json, jsonl or txt"),
    SlashCommand("save", "FILE", "save the last code block (or the last answer) to a file"),
    SlashCommand("load", "[ID]", "open another conversation"),
    SlashCommand("replay", "", "answer again with the same seed, and compare"),
    SlashCommand("exit", "", "quit", ("quit", "bye", "q")),
)


@dataclass(frozen=True, slots=True)
class Command:
    """A command that was typed: its canonical name, and the text after it."""

    name: str
    args: str = ""


def parse_command(text: str) -> Command | None:
    """Return the command in a line, None when it is a prompt; `//` begins a prompt with a slash.

    Raises UsageError for an unknown command.
    """
    line = text.strip()
    if not line.startswith("/") or line.startswith("//") or "\n" in line:
        return None
    word, _, args = line[1:].partition(" ")
    if "/" in word:  # the path of a file, which is a prompt like any other
        return None
    by_name = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
    if command := by_name.get(word.lower()):
        return Command(command.name, args.strip())
    matches = difflib.get_close_matches(word.lower(), by_name, 3)
    names = " or ".join(dict.fromkeys(f"/{by_name[match].name}" for match in matches))
    raise UsageError(f"Unknown command /{word}", f"Did you mean {names}?" if names else "Type /help for the list")


def unescape_prompt(text: str) -> str:
    """Return the prompt to send: with one slash in place of two at its beginning."""
    return text[1:] if text.startswith("//") else text


def complete_command(text: str) -> list[SlashCommand]:
    """Return the commands that a line may become; none for a prompt, or where it has arguments already."""
    if not text.startswith("/") or any(mark in text for mark in " \n"):
        return []
    return [command for command in COMMANDS if command.name.startswith(text[1:].lower())]
