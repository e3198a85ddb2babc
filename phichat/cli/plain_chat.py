"""A chat line by line, for screen readers, dumb terminals and recordings: no full screen, no cursor movement."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from phichat.chat.attachments import read_attachment
from phichat.chat.conversation import Conversation
from phichat.chat.presenter import present
from phichat.chat.slash_commands import parse_command, unescape_prompt
from phichat.cli.support.diagnostics import Diagnostics, ExitCode
from phichat.cli.support.interrupt import cancel_on_sigint
from phichat.cli.support.output import Output
from phichat.cli.support.turn_presenter import TerminalPresenter
from phichat.errors import PhichatError, UsageError
from phichat.events import CodeChecked, TurnFinished
from phichat.services.chat_commands import ChatCommands
from phichat.services.chat_service import ChatService
from phichat.types import FilePart, FinishReason, Part, TextPart


class PlainChat(ChatCommands):
    """Reads a line, answers it, and takes the same slash commands as the full screen."""

    def __init__(self, service: ChatService, conversation: Conversation) -> None:
        super().__init__(service)
        self._conversation = conversation
        self._output, self._diagnostics = Output(), Diagnostics()
        self._attachments: list[FilePart] = []
        self._show_reasoning, self._is_quitting = True, False

    def run_until_exit(self) -> ExitCode:
        """Answer until the end of the input or /exit."""
        self._diagnostics.print_notice("Type a prompt and press Enter. /help lists commands; Ctrl-D quits.")
        try:
            for line in self._read_lines():
                try:
                    if command := parse_command(line):
                        self.run(command)
                    else:
                        self.send_prompt([*self._attachments, TextPart(unescape_prompt(line))])
                except PhichatError as error:
                    self.notify(str(error))
                if self._is_quitting:
                    break
        finally:
            self.service.close()
        return ExitCode.DONE

    def _read_lines(self) -> Iterator[str]:
        with suppress(KeyboardInterrupt):
            while True:
                self._output.write_delta("> ")
                if not (line := sys.stdin.readline()):
                    return
                if line.strip():
                    yield line.rstrip("\n")

    # Used by the commands

    @property
    def conversation(self) -> Conversation:
        return self._conversation

    def show_conversation(self, conversation: Conversation) -> None:
        self._conversation = conversation

    def show_text(self, title: str, text: str) -> None:
        self._output.write_text(text)

    def notify(self, text: str) -> None:
        self._diagnostics.print_notice(text)

    def refresh_branch(self) -> None:
        """Do nothing: printed turns cannot be taken back."""

    def attach_file(self, path: Path) -> None:
        self._attachments.append(read_attachment(path))

    def send_prompt(self, parts: Sequence[Part]) -> None:
        self._attachments.clear()
        presenter = PlainPresenter(self._diagnostics, self._output, show_reasoning=self._show_reasoning)
        with cancel_on_sigint() as cancel:
            for event in self._conversation.send(tuple(parts), self.service.params, cancel):
                present(event, presenter)

    def run_think(self, args: str) -> None:
        self._show_reasoning = not self._show_reasoning

    def run_copy(self, args: str) -> None:
        raise UsageError("/copy needs the full screen", "Start `phichat` without --plain")

    def run_replay(self, args: str) -> None:
        with cancel_on_sigint() as cancel:
            self._output.write_text(self.service.replay_last_turn(self._conversation, cancel))

    def run_exit(self, args: str) -> None:
        self._is_quitting = True


class PlainPresenter(TerminalPresenter):
    """Prints one turn, with its warnings after the answer."""

    _warnings: tuple[str, ...] = ()

    def on_code_checked(self, event: CodeChecked) -> None:
        # A later report may drop a warning of an unfinished block; what was found once is printed.
        self._warnings += tuple(each for each in event.report.warnings if each not in self._warnings)

    def on_turn_finished(self, event: TurnFinished) -> None:
        self._output.end_text()
        stopped = ["Stopped."] if event.finish_reason is FinishReason.CANCELLED else []
        self._diagnostics.print_notice(*self._warnings, *event.notices, *stopped)
