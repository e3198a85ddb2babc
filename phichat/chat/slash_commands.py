"""The slash commands, for every front end that takes them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from phichat.errors import UsageError


@dataclass(frozen=True, slots=True)
class SlashCommand:
    """One command: its name without the slash, what it takes, and what it does."""

    name: str
    usage_args: str
    description: str

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.usage_args}".rstrip()


COMMANDS = (
    SlashCommand("help", "", "what can be typed"),
    SlashCommand("model", "[NAME]", "choose another model; the conversation stays"),
    SlashCommand("system", "[TEXT]", "show or set the system prompt; - removes it"),
    SlashCommand("set", "[OPTION VALUE]", "show or set an option, such as temperature 0.2"),
    SlashCommand("new", "", "begin another conversation"),
    SlashCommand("clear", "", "begin another conversation with an empty screen"),
    SlashCommand("regen", "", "answer the last prompt once more, beside the answer there is"),
    SlashCommand("undo", "", "take back the last prompt and its answer"),
    SlashCommand("edit", "[TEXT]", "change the last prompt and send it again"),
    SlashCommand("fork", "[N]", "go on in a copy of this conversation, from turn N"),
    SlashCommand("read", "FILE", "attach a text file to the next prompt"),
    SlashCommand("context", "", "what the model sees now, turn by turn"),
    SlashCommand("stats", "", "tokens and times of the last answer"),
    SlashCommand("think", "", "show or fold what the model thought"),
    SlashCommand("copy", "[code]", "copy the last answer, or its last code block"),
    SlashCommand("export", "[FORMAT] [FILE]", "write the conversation: md, html, json, jsonl or txt"),
    SlashCommand("save", "FILE", "write the last code block, or else the last answer, to a file"),
    SlashCommand("load", "[ID]", "open another conversation"),
    SlashCommand("replay", "", "answer again with the same seed, and compare"),
    SlashCommand("exit", "", "leave"),
)

_ALIASES = {"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "regenerate": "regen", "retry": "regen"}


@dataclass(frozen=True, slots=True)
class Command:
    """A command that was typed. rest: what stood behind its name."""

    name: str
    args: str = ""


def parse_command(text: str) -> Command | None:
    """The command in a line, None when it is a prompt; `//` begins a prompt with a slash.

    Raises UsageError for a slash word that is no command.
    """
    line = text.strip()
    if not line.startswith("/") or line.startswith("//") or "\n" in line:
        return None
    word, _, args = line[1:].partition(" ")
    name = _ALIASES.get(word.lower(), word.lower())
    if "/" in name:  # the path of a file, which is a prompt like any other
        return None
    names = [command.name for command in COMMANDS]
    if name not in names:
        matches = difflib.get_close_matches(name, names, 3)
        hint = (
            "did you mean " + " or ".join(f"/{other}" for other in matches) if matches else "/help lists what there is"
        )
        raise UsageError(f"There is no command /{word}", hint)
    return Command(name, args.strip())


def unescape_prompt(text: str) -> str:
    """A prompt as it is sent: a doubled slash at its beginning stands for one."""
    return text[1:] if text.startswith("//") else text


def complete_command(text: str) -> list[SlashCommand]:
    """The commands that a line may become; none when it is no command or has arguments already."""
    if not text.startswith("/") or any(mark in text for mark in " \n"):
        return []
    return [command for command in COMMANDS if command.name.startswith(text[1:].lower())]
