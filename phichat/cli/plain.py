"""A chat line by line, for screen readers, dumb terminals and recordings: no full screen, no cursor movement."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import assert_never

from phichat.chat.attachments import attached
from phichat.chat.commands import Command, parse, plain_prompt
from phichat.chat.conversation import Conversation
from phichat.chat.telling import commands_text, context_text, options_text, stats_text, turn_number, with_option
from phichat.cli.diagnostics import Diagnostics, ExitCode
from phichat.cli.interrupt import ctrl_c
from phichat.cli.output import Output
from phichat.desk import Desk
from phichat.errors import OutputError, PhichatError, UsageError
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelChecking,
    ModelLoading,
    ModelReady,
    NotKept,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    Sampling,
    TextDelta,
    TurnFinished,
    TurnStarted,
    Voted,
)
from phichat.messages import FinishReason
from phichat.paths import expanded, write_atomically


class PlainChat:
    """Reads a line, answers it, and takes the same slash commands as the full screen."""

    def __init__(self, desk: Desk, conversation: Conversation) -> None:
        self._desk, self._talk = desk, conversation
        self._output, self._tell = Output(), Diagnostics()
        self._attached: list[str] = []
        self._shows_reasoning = True
        self._warned: tuple[str, ...] = ()

    def run(self) -> ExitCode:
        """Until the end of the input or /exit."""
        self._tell.notice("Type a prompt and Enter; /help lists the commands, Ctrl-D leaves.")
        try:
            for line in self._lines():
                try:
                    command = parse(line)
                    if command is None:
                        self._answer(plain_prompt(line))
                    elif command.name == "exit":
                        break
                    else:
                        self._run(command)
                except PhichatError as error:
                    self._tell.notice(str(error))
        finally:
            self._desk.close()
        return ExitCode.DONE

    def _lines(self) -> Iterator[str]:
        while True:
            self._output.piece("> ")
            try:
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                return
            if not line:
                return
            if line.strip():
                yield line.rstrip("\n")

    def _answer(self, prompt: str) -> None:
        whole = "\n\n".join([*self._attached, prompt])
        self._attached.clear()
        self._warned = ()
        with ctrl_c() as cancel:
            for event in self._talk.send(whole, self._desk.params, cancel):
                self._show(event)

    def _show(self, event: Event) -> None:
        match event:
            case ModelReady():
                for notice in event.notices:
                    self._tell.notice(notice)
            case NotKept():
                self._tell.notice(f"This is not being kept: {event.reason}.")
            case ContextTrimmed():
                self._tell.notice(f"The oldest turns left out, for lack of context: {event.dropped_turns}.")
            case ReasoningDelta():
                if self._shows_reasoning:
                    self._tell.reasoning(event.text)
            case TextDelta():
                self._tell.end_reasoning()
                self._output.piece(event.text)
            case CodeChecked():
                # Each of them once, when its block is complete.
                for warning in event.report.warnings:
                    if warning not in self._warned:
                        self._warned += (warning,)
            case TurnFinished():
                self._output.end()
                for warning in self._warned:
                    self._tell.notice(warning)
                if event.finish_reason is FinishReason.CANCELLED:
                    self._tell.notice("Stopped.")
            case TurnStarted() | ModelChecking() | ModelLoading() | PromptProgress():
                pass
            case Sampling() | SampleFinished() | Voted():
                pass
            case _:
                assert_never(event)

    # Commands

    def _run(self, command: Command) -> None:
        """Raises PhichatError kinds."""
        rest, say = command.rest, self._output.text
        match command.name:
            case "help":
                say(commands_text())
            case "model":
                self._model(rest)
            case "system":
                self._system(rest)
            case "set":
                if rest:
                    self._desk.params = with_option(self._desk.params, rest)
                else:
                    say(options_text(self._desk.params))
            case "new" | "clear":
                self._talk = self._desk.new_talk()
            case "regen":
                self._again(turn_number(self._talk, rest).prompt)
            case "undo":
                self._talk.stand_at(turn_number(self._talk, "").parent)
            case "edit":
                if not rest:
                    raise UsageError("/edit needs the new prompt", "write it behind the command")
                self._again(rest)
            case "fork":
                self._talk = self._desk.fork(self._talk, turn_number(self._talk, rest).id)
            case "read":
                self._attached.append(attached(expanded(rest)))
            case "context":
                say(context_text(self._talk))
            case "stats":
                say(stats_text(turn_number(self._talk, rest)))
            case "think":
                self._shows_reasoning = not self._shows_reasoning
            case "export":
                self._export(rest)
            case "save":
                self._write(rest, self._desk.last_code(self._talk))
            case "load":
                self._load(rest)
            case "replay":
                self._replay()
            case _:
                raise UsageError(f"/{command.name} needs the full screen", "start `phichat` without --plain")

    def _replay(self) -> None:
        with ctrl_c() as cancel:
            self._output.text(self._desk.replay(self._talk, cancel))

    def _again(self, prompt: str) -> None:
        self._talk.stand_at(turn_number(self._talk, "").parent)
        self._answer(prompt)

    def _model(self, name: str) -> None:
        if name:
            self._desk.choose_model(name)
        else:
            self._output.text("\n".join(f"{offer.name}  {offer.about}" for offer in self._desk.shelf.offers()))

    def _system(self, text: str) -> None:
        if text:
            self._desk.system = self._talk.system = None if text == "-" else text
        else:
            self._output.text(self._talk.system or "There is none.")

    def _export(self, rest: str) -> None:
        format, _, name = rest.partition(" ")
        if self._talk.id is None:
            raise UsageError("This conversation is not kept yet", "ask something first")
        text = self._desk.export(self._talk.id, format or "md")
        if name:
            self._write(name, text)
        else:
            self._output.text(text)

    def _load(self, rest: str) -> None:
        if rest:
            self._talk = self._desk.opened(rest)
        else:
            self._output.text("\n".join(f"{one.id}  {one.title}  {one.about}" for one in self._desk.listed("")))

    def _write(self, name: str, text: str) -> None:
        if not name:
            raise UsageError("There is no file named", "write its path behind the command")
        path = expanded(name)
        if os.path.exists(path):  # noqa: PTH110  (Path.exists raises for what can be no name)
            raise UsageError(f"{path} is there already", "name another file")
        try:
            write_atomically(path, text.encode("utf-8", "surrogatepass"))
        except OSError as why:
            raise OutputError(f"{path} cannot be written ({why.strerror})", "name another file") from why
        self._tell.notice(f"Saved {path}.")
