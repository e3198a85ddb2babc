"""The slash commands, for every front end that takes them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from phichat.errors import UsageError


@dataclass(frozen=True, slots=True)
class CommandHelp:
    """One command: its name without the slash, what it takes, and what it does."""

    name: str
    takes: str
    does: str

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.takes}".rstrip()


COMMANDS = (
    CommandHelp("help", "", "what can be typed"),
    CommandHelp("model", "[NAME]", "choose another model; the conversation stays"),
    CommandHelp("system", "[TEXT]", "show or set the system prompt; - removes it"),
    CommandHelp("set", "[OPTION VALUE]", "show or set an option, such as temperature 0.2"),
    CommandHelp("new", "", "begin another conversation"),
    CommandHelp("clear", "", "begin another conversation with an empty screen"),
    CommandHelp("regen", "", "answer the last prompt once more, beside the answer there is"),
    CommandHelp("undo", "", "take back the last prompt and its answer"),
    CommandHelp("edit", "[TEXT]", "change the last prompt and send it again"),
    CommandHelp("fork", "[N]", "go on in a copy of this conversation, from turn N"),
    CommandHelp("read", "FILE", "attach a text file to the next prompt"),
    CommandHelp("context", "", "what the model sees now, turn by turn"),
    CommandHelp("stats", "", "tokens and times of the last answer"),
    CommandHelp("think", "", "show or fold what the model thought"),
    CommandHelp("copy", "[code]", "copy the last answer, or its last code block"),
    CommandHelp("export", "[FORMAT] [FILE]", "write the conversation: md, html, json, jsonl or txt"),
    CommandHelp("save", "FILE", "write the last code block, or else the last answer, to a file"),
    CommandHelp("load", "[ID]", "open another conversation"),
    CommandHelp("replay", "", "answer again with the same seed, and compare"),
    CommandHelp("exit", "", "leave"),
)

_ALIASES = {"quit": "exit", "bye": "exit", "q": "exit", "?": "help", "regenerate": "regen", "retry": "regen"}


@dataclass(frozen=True, slots=True)
class Command:
    """A command that was typed. rest: what stood behind its name."""

    name: str
    rest: str = ""


def parse(text: str) -> Command | None:
    """The command in a line, None when it is a prompt; `//` begins a prompt with a slash.

    Raises UsageError for a slash word that is no command.
    """
    line = text.strip()
    if not line.startswith("/") or line.startswith("//") or "\n" in line:
        return None
    word, _, rest = line[1:].partition(" ")
    name = _ALIASES.get(word.lower(), word.lower())
    if "/" in name:  # the path of a file, which is a prompt like any other
        return None
    names = [command.name for command in COMMANDS]
    if name not in names:
        near = difflib.get_close_matches(name, names, 3)
        hint = "did you mean " + " or ".join(f"/{other}" for other in near) if near else "/help lists what there is"
        raise UsageError(f"There is no command /{word}", hint)
    return Command(name, rest.strip())


def plain_prompt(text: str) -> str:
    """A prompt as it is sent: a doubled slash at its beginning stands for one."""
    return text[1:] if text.startswith("//") else text


def complete(text: str) -> list[CommandHelp]:
    """The commands that a line may become; none when it is no command or has arguments already."""
    if not text.startswith("/") or any(mark in text for mark in " \n"):
        return []
    return [command for command in COMMANDS if command.name.startswith(text[1:].lower())]
