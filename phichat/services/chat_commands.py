"""The slash commands, for every front end of a chat."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from phichat.cancel import CancelToken
from phichat.chat import command_output
from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import Command
from phichat.errors import EngineError, OutputError, UsageError
from phichat.paths import expand_user
from phichat.services.chat_service import ChatService
from phichat.services.transcript_service import EXPORT_FORMATS
from phichat.storage.atomic_write import write_atomically
from phichat.transcript.records import TurnRecord
from phichat.types import Part, TextPart


class ChatCommands(ABC):
    """One `run_NAME` method per slash command; a front end implements the abstract methods, and overrides
    those of the commands that it runs in its own way."""

    def __init__(self, service: ChatService) -> None:
        self.service = service

    # Implemented by each front end

    @property
    @abstractmethod
    def conversation(self) -> Conversation:
        """The conversation that the user sees."""

    @abstractmethod
    def show_text(self, title: str, text: str) -> None:
        """Show text that the user asked for; it is not yet sanitised."""

    @abstractmethod
    def notify(self, text: str) -> None:
        """Report in one sentence what was done; the text is not yet sanitised."""

    @abstractmethod
    def send_prompt(self, parts: Sequence[Part]) -> None:
        """Send a prompt after the head of the conversation."""

    @abstractmethod
    def show_conversation(self, conversation: Conversation) -> None:
        """Show another conversation, which the next prompt then continues."""

    @abstractmethod
    def refresh_branch(self) -> None:
        """Show the branch of the conversation whose head was moved."""

    @abstractmethod
    def attach_file(self, path: Path) -> None:
        """Add a text file to the next prompt. Raises AttachmentError."""

    @abstractmethod
    def run_think(self, args: str) -> None:
        """Show or hide the model's reasoning."""

    @abstractmethod
    def run_copy(self, args: str) -> None:
        """Copy the last answer, or its last code block."""

    @abstractmethod
    def run_exit(self, args: str) -> None:
        """Quit."""

    @property
    def is_busy(self) -> bool:
        """True while an answer is being written; commands do not change the tree of turns then."""
        return False

    def check_idle(self) -> None:
        """Raise UsageError while an answer is being written."""
        if self.is_busy:
            raise UsageError("Still answering", "Press Esc to stop")

    def target_turn(self, number: str) -> TurnRecord:
        """Return the turn that a command is about, by its number from 1; for "" the last, or the selected one."""
        return command_output.find_turn(self.conversation, number)

    # The commands

    def run(self, command: Command) -> None:
        """Run a parsed command. Raises PhichatError kinds."""
        if command.name in ("read", "save") and not command.args:
            raise UsageError(f"/{command.name} needs a file name", f"Type /{command.name} PATH")
        getattr(self, f"run_{command.name}")(command.args)

    def run_help(self, args: str) -> None:
        self.show_text("Commands", command_output.format_commands())

    def run_model(self, args: str) -> None:
        if args:
            self.check_idle()
            self.service.select_model(args)
        else:
            entries = self.service.catalog.entries()
            self.show_text("Models", "\n".join(f"{each.name}  {each.details}" for each in entries))

    def run_system(self, args: str) -> None:
        if not args:
            self.show_text("System prompt", self.conversation.system or "No system prompt is set.")
            return
        self.service.system = self.conversation.system = None if args == "-" else args
        self.notify("System prompt removed." if args == "-" else "System prompt set; it applies from the next turn.")

    def run_set(self, args: str) -> None:
        if not args:
            self.show_text("Options", command_output.format_options(self.service.params))
            return
        self.service.params = command_output.set_option(self.service.params, args)
        name, _, value = args.partition(" ")
        self.notify(f"{name} = {value.strip()} from the next turn.")

    def run_new(self, args: str) -> None:
        self.check_idle()
        self.show_conversation(self.service.new_conversation())

    def run_regen(self, args: str) -> None:
        self.resend(self.target_turn(args))

    def run_undo(self, args: str) -> None:
        self.check_idle()
        self._move_head_before(self.target_turn(""))

    def run_edit(self, args: str) -> None:
        if not args:
            raise UsageError("/edit needs the new prompt", "Type /edit TEXT")
        self.resend(self.target_turn(""), (TextPart(args),))

    def run_fork(self, args: str) -> None:
        self.check_idle()
        self.show_conversation(self.service.fork_conversation(self.conversation, self.target_turn(args).id))
        self.notify("Forked. The original conversation is unchanged.")

    def run_read(self, args: str) -> None:
        self.attach_file(expand_user(args))

    def run_context(self, args: str) -> None:
        self.show_text("What the model sees", self.describe_context())

    def run_stats(self, args: str) -> None:
        self.show_text("Statistics", command_output.format_stats(self.target_turn(args)))

    def run_export(self, args: str) -> None:
        if self.conversation.id is None:
            raise UsageError("This conversation isn't saved yet", "Ask something first")
        export_format, _, name = args.partition(" ")
        text = self.service.transcripts.export(self.conversation.id, export_format or EXPORT_FORMATS[0])
        if name:
            self.write_file(name.strip(), text)
        else:
            self.show_text("Export", text)

    def run_save(self, args: str) -> None:
        from phichat.codecheck.blocks import find_fenced_code

        answer = self.target_turn("").text
        self.write_file(args, (find_fenced_code(answer) or [answer])[-1])

    def run_load(self, args: str) -> None:
        if args:
            self.check_idle()
            self.show_conversation(self.service.open_conversation(args))
        else:
            entries = self.service.transcripts.list_entries("")
            self.show_text("Conversations", "\n".join(f"{each.id}  {each.title}  {each.details}" for each in entries))

    @abstractmethod
    def run_replay(self, args: str) -> None:
        """Replay the last turn and show how the answers differ; cancelled as the front end cancels an answer."""

    # Shared by the commands and by keys that do the same

    def describe_context(self) -> str:
        """Return what the model sees, counted by the model where one is loaded and idle; it may take a while."""
        with suppress(EngineError):
            if not self.is_busy and self.service.count_tokens("x", CancelToken()):
                return command_output.format_context(
                    self.conversation, lambda text: self.service.count_tokens(text, CancelToken())
                )
        return command_output.format_context(self.conversation)

    def resend(self, turn: TurnRecord, parts: Sequence[Part] | None = None) -> None:
        """Send a prompt as an alternative to a turn; None for the same prompt again."""
        self.check_idle()
        self._move_head_before(turn)
        self.send_prompt(turn.parts if parts is None else parts)

    def _move_head_before(self, turn: TurnRecord) -> None:
        self.conversation.set_head(turn.parent)
        self.refresh_branch()

    def write_file(self, name: str, text: str) -> None:
        """Write a new file. Raises UsageError where it exists, and OutputError."""
        path = expand_user(name)
        if os.path.exists(path):  # noqa: PTH110  (Path.exists raises for what can be no name)
            raise UsageError(f"{path} already exists", "Choose another name")
        try:
            write_atomically(path, text.encode("utf-8", "surrogatepass"))
        except OSError as error:
            raise OutputError(f"{path} cannot be written ({error.strerror})", "Choose another name") from error
        self.notify(f"Saved {path}.")
