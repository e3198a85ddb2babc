"""The slash commands of the full-screen chat."""

from __future__ import annotations

from phichat.chat.command_output import format_context, format_options, format_stats, parse_turn_number, set_option
from phichat.chat.slash_commands import Command, parse_command, unescape_prompt
from phichat.errors import PhichatError, UsageError
from phichat.paths import expand_user
from phichat.tui.controllers.context import ChatContext
from phichat.tui.controllers.conversations import ConversationController
from phichat.tui.controllers.models import ModelController
from phichat.tui.controllers.prompt import PromptController
from phichat.tui.controllers.turns import TurnController
from phichat.tui.help import build_help
from phichat.tui.screens.dialogs import TextDialog


class CommandController:
    """Run slash commands by means of the other controllers."""

    def __init__(
        self,
        context: ChatContext,
        turns: TurnController,
        conversations: ConversationController,
        models: ModelController,
        prompts: PromptController,
    ) -> None:
        self._context, self._turns, self._conversations = context, turns, conversations
        self._models, self._prompts = models, prompts

    def submit(self, text: str) -> None:
        """Run the slash command or send the prompt; put the text back if neither is possible."""
        try:
            command = parse_command(text)
        except UsageError as error:
            self._context.notify_error(error)
            self._context.prompt.set_text(text)
            return
        if command is not None:
            self.run(command)
        elif self._context.check_idle():
            self._turns.send(unescape_prompt(text))
        else:
            self._context.prompt.set_text(text)

    def run(self, command: Command) -> None:
        """Run a command; errors are shown."""
        try:
            getattr(self, f"run_{command.name}")(command.args)
        except PhichatError as error:
            self._context.notify_error(error)

    def show_text(self, title: str, text: str) -> None:
        self._context.screen.app.push_screen(TextDialog(title, text))

    def run_help(self, args: str = "") -> None:
        self._context.screen.app.push_screen(TextDialog("Keys and commands", build_help()))

    def run_system(self, args: str) -> None:
        if not args:
            self.show_text("System prompt", self._context.conversation.system or "No system prompt is set.")
            return
        self._context.service.system = self._context.conversation.system = None if args == "-" else args
        self._context.notify(
            "System prompt removed." if args == "-" else "System prompt set; it applies from the next turn."
        )

    def run_set(self, args: str) -> None:
        service = self._context.service
        if not args:
            self.show_text("Options", format_options(service.params))
            return
        service.params = set_option(service.params, args)
        name, _, value = args.partition(" ")
        self._context.notify(f"{name} = {value.strip()} from the next turn.")

    def run_new(self, args: str) -> None:
        self._conversations.new()

    run_clear = run_new

    def run_regen(self, args: str) -> None:
        self._turns.regenerate()

    def run_undo(self, args: str) -> None:
        self._turns.undo()

    def run_edit(self, args: str) -> None:
        if args:
            self._turns.resend(args)
        else:
            self._turns.edit_prompt()

    def run_fork(self, args: str) -> None:
        if args:
            self._context.view.select_turn_id(parse_turn_number(self._context.conversation, args).id)
        self._turns.fork()

    def run_read(self, args: str) -> None:
        if not args:
            raise UsageError("/read needs a file name", "Type /read PATH")
        self._prompts.attach_file(expand_user(args))

    def run_context(self, args: str) -> None:
        self.show_text("What the model sees", format_context(self._context.conversation))

    def run_stats(self, args: str) -> None:
        self.show_text("Statistics", format_stats(parse_turn_number(self._context.conversation, args)))

    def run_think(self, args: str) -> None:
        self._context.view.action_toggle_fold()

    def run_copy(self, args: str) -> None:
        if args.lower() == "code":
            self._turns.copy_code()
        else:
            self._turns.copy_answer()

    def run_save(self, args: str) -> None:
        if not args:
            raise UsageError("/save needs a file name", "Type /save PATH")
        self._turns.save_last_block(args)

    def run_export(self, args: str) -> None:
        self._conversations.export(args)

    def run_load(self, args: str) -> None:
        self._conversations.load(args)

    def run_replay(self, args: str) -> None:
        self._conversations.replay()

    def run_model(self, args: str) -> None:
        if args:
            self._models.switch(args)
        else:
            self._models.pick()

    def run_exit(self, args: str) -> None:
        app = self._context.screen.app
        app.run_worker(app.run_action("save_and_quit"))
