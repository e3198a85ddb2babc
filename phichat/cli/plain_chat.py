"""A chat line by line, for screen readers, dumb terminals and recordings: no full screen, no cursor movement."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import assert_never

from phichat.chat.attachments import render_attachment
from phichat.chat.command_output import (
    format_commands,
    format_context,
    format_options,
    format_stats,
    parse_turn_number,
    set_option,
)
from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import Command, parse_command, unescape_prompt
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.output import Output
from phichat.errors import OutputError, PhichatError, UsageError
from phichat.events import (
    CodeChecked,
    ContextTrimmed,
    Event,
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TranscriptUnavailable,
    TurnFinished,
    TurnStarted,
    VoteResult,
)
from phichat.paths import expand_user
from phichat.services.chat_service import ChatService
from phichat.storage.atomic_write import write_atomically
from phichat.types import FinishReason


class LineChat:
    """Reads a line, answers it, and takes the same slash commands as the full screen."""

    def __init__(self, service: ChatService, conversation: Conversation) -> None:
        self._service, self._conversation = service, conversation
        self._output, self._diagnostics = Output(), Diagnostics()
        self._attachments: list[str] = []
        self._show_reasoning = True
        self._warnings: tuple[str, ...] = ()

    def run(self) -> ExitCode:
        """Until the end of the input or /exit."""
        self._diagnostics.print_notice("Type a prompt and Enter; /help lists the commands, Ctrl-D leaves.")
        try:
            for line in self._read_lines():
                try:
                    command = parse_command(line)
                    if command is None:
                        self._send_prompt(unescape_prompt(line))
                    elif command.name == "exit":
                        break
                    else:
                        self._run_command(command)
                except PhichatError as error:
                    self._diagnostics.print_notice(str(error))
        finally:
            self._service.close()
        return ExitCode.DONE

    def _read_lines(self) -> Iterator[str]:
        while True:
            self._output.write_delta("> ")
            try:
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                return
            if not line:
                return
            if line.strip():
                yield line.rstrip("\n")

    def _send_prompt(self, prompt: str) -> None:
        full_prompt = "\n\n".join([*self._attachments, prompt])
        self._attachments.clear()
        self._warnings = ()
        with cancel_on_sigint() as cancel:
            for event in self._conversation.send(full_prompt, self._service.params, cancel):
                self._on_event(event)

    def _on_event(self, event: Event) -> None:
        match event:
            case ModelReady():
                for notice in event.notices:
                    self._diagnostics.print_notice(notice)
            case TranscriptUnavailable():
                self._diagnostics.print_notice(f"This is not being kept: {event.reason}.")
            case ContextTrimmed():
                self._diagnostics.print_notice(
                    f"The oldest turns left out, for lack of context: {event.dropped_turns}."
                )
            case ReasoningDelta():
                if self._show_reasoning:
                    self._diagnostics.print_reasoning(event.text)
            case TextDelta():
                self._diagnostics.end_reasoning()
                self._output.write_delta(event.text)
            case CodeChecked():
                # Each of them once, when its block is complete.
                for warning in event.report.warnings:
                    if warning not in self._warnings:
                        self._warnings += (warning,)
            case TurnFinished():
                self._output.end_text()
                for warning in self._warnings:
                    self._diagnostics.print_notice(warning)
                if event.finish_reason is FinishReason.CANCELLED:
                    self._diagnostics.print_notice("Stopped.")
            case TurnStarted() | ModelVerifying() | ModelLoading() | PromptProgress():
                pass
            case SamplingProgress() | SampleFinished() | VoteResult():
                pass
            case _:
                assert_never(event)

    # Commands

    def _run_command(self, command: Command) -> None:
        """Raises PhichatError kinds."""
        args, write_text = command.args, self._output.write_text
        match command.name:
            case "help":
                write_text(format_commands())
            case "model":
                self._select_model(args)
            case "system":
                self._set_system(args)
            case "set":
                if args:
                    self._service.params = set_option(self._service.params, args)
                else:
                    write_text(format_options(self._service.params))
            case "new" | "clear":
                self._conversation = self._service.new_conversation()
            case "regen":
                self._resend(parse_turn_number(self._conversation, args).prompt)
            case "undo":
                self._conversation.set_head(parse_turn_number(self._conversation, "").parent)
            case "edit":
                if not args:
                    raise UsageError("/edit needs the new prompt", "Write it behind the command")
                self._resend(args)
            case "fork":
                self._conversation = self._service.fork_conversation(
                    self._conversation, parse_turn_number(self._conversation, args).id
                )
            case "read":
                self._attachments.append(render_attachment(expand_user(args)))
            case "context":
                write_text(format_context(self._conversation))
            case "stats":
                write_text(format_stats(parse_turn_number(self._conversation, args)))
            case "think":
                self._show_reasoning = not self._show_reasoning
            case "export":
                self._export_conversation(args)
            case "save":
                self._write_file(args, self._service.last_code_block(self._conversation))
            case "load":
                self._load_conversation(args)
            case "replay":
                self._replay_last_turn()
            case _:
                raise UsageError(f"/{command.name} needs the full screen", "Start `phichat` without --plain")

    def _replay_last_turn(self) -> None:
        with cancel_on_sigint() as cancel:
            self._output.write_text(self._service.replay_last_turn(self._conversation, cancel))

    def _resend(self, prompt: str) -> None:
        self._conversation.set_head(parse_turn_number(self._conversation, "").parent)
        self._send_prompt(prompt)

    def _select_model(self, name: str) -> None:
        if name:
            self._service.select_model(name)
        else:
            self._output.write_text(
                "\n".join(f"{offer.name}  {offer.details}" for offer in self._service.catalog.entries())
            )

    def _set_system(self, text: str) -> None:
        if text:
            self._service.system = self._conversation.system = None if text == "-" else text
        else:
            self._output.write_text(self._conversation.system or "There is none.")

    def _export_conversation(self, args: str) -> None:
        format, _, name = args.partition(" ")
        if self._conversation.id is None:
            raise UsageError("This conversation is not kept yet", "Ask something first")
        text = self._service.export_conversation(self._conversation.id, format or "md")
        if name:
            self._write_file(name, text)
        else:
            self._output.write_text(text)

    def _load_conversation(self, id_prefix: str) -> None:
        if id_prefix:
            self._conversation = self._service.open_conversation(id_prefix)
        else:
            self._output.write_text(
                "\n".join(f"{one.id}  {one.title}  {one.details}" for one in self._service.list_conversations(""))
            )

    def _write_file(self, name: str, text: str) -> None:
        if not name:
            raise UsageError("There is no file named", "Write its path behind the command")
        path = expand_user(name)
        if os.path.exists(path):  # noqa: PTH110  (Path.exists raises for what can be no name)
            raise UsageError(f"{path} is there already", "Name another file")
        try:
            write_atomically(path, text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror})", "Name another file") from error
        self._diagnostics.print_notice(f"Saved {path}.")
