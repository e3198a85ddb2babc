"""The slash commands of the full-screen chat."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import Command, parse_command, unescape_prompt
from phichat.errors import UsageError
from phichat.services.chat_commands import ChatCommands
from phichat.transcript.records import TurnRecord
from phichat.tui.controllers.context import ChatContext
from phichat.tui.controllers.conversations import ConversationController
from phichat.tui.controllers.models import ModelController
from phichat.tui.controllers.prompt import PromptController
from phichat.tui.controllers.turn_runner import TurnRunner
from phichat.tui.controllers.turns import TurnController
from phichat.tui.help import build_help
from phichat.tui.screens.dialogs import TextDialog
from phichat.types import Part, TextPart


class CommandController(ChatCommands):
    """Own the other controllers, and run slash commands by means of them."""

    def __init__(self, context: ChatContext) -> None:
        super().__init__(context.service)
        self._context = context
        self.runner = TurnRunner(context)
        self.turns = TurnController(context, self.runner)
        self.conversations = ConversationController(context, self.turns)
        self.models = ModelController(context, self.runner)
        self.prompts = PromptController(context, self.runner)

    def submit(self, text: str, parts: Sequence[Part]) -> None:
        """Run the slash command or send the prompt; put the text back if neither is possible."""
        try:
            command = parse_command(text)
        except UsageError as error:
            self._context.notify_error(error)
            self._context.prompt.set_text(text)
            return
        if command:
            self.run(command)
        elif self._context.check_idle():
            first, *others = parts
            self.send_prompt([TextPart(unescape_prompt(first.text)) if isinstance(first, TextPart) else first, *others])
        else:
            self._context.prompt.set_text(text)

    def run(self, command: Command) -> None:
        """Run a command; errors are shown."""
        with self._context.report_errors():
            super().run(command)

    # What the commands need

    @property
    def conversation(self) -> Conversation:
        return self._context.conversation

    @property
    def is_busy(self) -> bool:
        return self._context.is_busy

    def show_text(self, title: str, text: str) -> None:
        self._context.screen.app.push_screen(TextDialog(title, text))

    def notify(self, text: str) -> None:
        self._context.notify(text)

    def send_prompt(self, parts: Sequence[Part]) -> None:
        self.turns.send(parts)

    def show_conversation(self, conversation: Conversation) -> None:
        self._context.open_conversation(conversation)

    def refresh_branch(self) -> None:
        self._context.refresh_branch()

    def attach_file(self, path: Path) -> None:
        self.prompts.attach_file(path)

    def target_turn(self, number: str) -> TurnRecord:
        """Return the selected turn where the command names none."""
        selected = self._context.view.selected_turn
        if number or selected is None or not selected.id:
            return super().target_turn(number)
        return self.conversation.get_turn(selected.id)

    # Commands that do more on a full screen

    def run_help(self, args: str = "") -> None:
        screen = self._context.screen
        screen.app.push_screen(TextDialog("Keys and commands", build_help([*screen.BINDINGS, *screen.app.BINDINGS])))

    def run_model(self, args: str) -> None:
        if args:
            self.models.switch(args)
        else:
            self.models.pick()

    def run_context(self, args: str) -> None:
        """Count in a thread: the model may take a while for a long conversation."""
        show = partial(self.show_text, "What the model sees")
        self.runner.count_in_thread(self.describe_context, show)

    def run_undo(self, args: str) -> None:
        self.turns.undo()

    def run_edit(self, args: str) -> None:
        if args:
            super().run_edit(args)
        else:
            self.turns.edit_prompt()

    def run_think(self, args: str) -> None:
        self._context.view.action_toggle_fold()

    def run_copy(self, args: str) -> None:
        if args.lower() == "code":
            self.turns.copy_code()
        else:
            self.turns.copy_answer()

    def run_save(self, args: str) -> None:
        self.turns.save_last_block(args)

    def run_export(self, args: str) -> None:
        self.conversations.export(args)

    def run_load(self, args: str) -> None:
        if args:
            super().run_load(args)
        elif not self._context.sidebar.is_open:
            self.conversations.toggle_sidebar()

    def run_replay(self, args: str) -> None:
        self.conversations.replay()

    def run_exit(self, args: str) -> None:
        app = self._context.screen.app
        app.run_worker(app.run_action("save_and_quit"))
