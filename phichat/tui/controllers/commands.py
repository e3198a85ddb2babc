"""The slash commands of the full-screen chat."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from phichat.cancel import CancelToken
from phichat.chat.attachments import render_attachment
from phichat.chat.command_output import (
    estimate_tokens,
    format_context,
    format_options,
    format_stats,
    parse_turn_number,
    set_option,
)
from phichat.chat.conversation import Conversation
from phichat.chat.slash_commands import Command
from phichat.errors import PhichatError, UsageError
from phichat.paths import expand_user
from phichat.services.chat_service import ChatService
from phichat.tui.controllers.turns import ActingScreen
from phichat.tui.help import build_help
from phichat.tui.screens.dialogs import TextDialog
from phichat.tui.widgets.completions import Completion


class CommandingScreen(ActingScreen):
    """Runs a command that was typed; what it needs of the running of turns comes from the chat screen."""

    def __init__(self, chat_service: ChatService, conversation: Conversation | None = None) -> None:
        super().__init__(chat_service, conversation)
        self._count_cancel = CancelToken()
        self._count_thread: Thread | None = None

    def run_command(self, command: Command) -> None:
        """Errors are told, not raised."""
        try:
            getattr(self, f"_do_{command.name}")(command.args)
        except PhichatError as error:
            self.notify_user(f"{error}", is_error=True)

    def _do_help(self, argument: str) -> None:
        self.app.push_screen(TextDialog("Keys and commands", build_help()))

    def _do_system(self, argument: str) -> None:
        if not argument:
            self.app.push_screen(TextDialog("System prompt", self.conversation.system or "There is none."))
            return
        self.chat_service.system = self.conversation.system = None if argument == "-" else argument
        self.notify_user(
            "The system prompt is gone." if argument == "-" else "The system prompt is set, from the next turn on."
        )

    def _do_set(self, argument: str) -> None:
        if not argument:
            self.app.push_screen(TextDialog("Options", format_options(self.chat_service.params)))
            return
        self.chat_service.params = set_option(self.chat_service.params, argument)
        self.notify_user(f"{argument}, from the next turn on.")

    def _do_new(self, argument: str) -> None:
        self.action_new_conversation()

    def _do_clear(self, argument: str) -> None:
        self.action_new_conversation()

    def action_new_conversation(self) -> None:
        """Begin another conversation."""
        if self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
        else:
            self.open_conversation(self.chat_service.new_conversation())

    def _do_regen(self, argument: str) -> None:
        self.action_regenerate()

    def _do_undo(self, argument: str) -> None:
        turn = self._get_idle_target()
        if turn is not None:
            self._move_head_before(turn)
            self.prompt_input.set_text(turn.prompt)

    def _do_edit(self, argument: str) -> None:
        turn = self._get_idle_target()
        if turn is None:
            return
        if argument:
            self.edited_turn = turn
            self.send_edited(argument)
        else:
            self.action_edit_prompt()

    def _do_fork(self, argument: str) -> None:
        if argument:
            turn = parse_turn_number(self.conversation, argument)
            self.conversation_view.select_turn(
                next(view for view in self.conversation_view.turns if view.id == turn.id)
            )
        self.action_fork_conversation()

    def _do_read(self, argument: str) -> None:
        if not argument:
            raise UsageError("/read needs a file", "Write its path behind it")
        self.attach_file(expand_user(argument))

    def attach_file(self, path: Path) -> None:
        """Put a file into the prompt, and say how many tokens it has. Raises AttachmentError."""
        text = render_attachment(path)
        chip = self.prompt_input.insert_chip(path.name, text, f"about {estimate_tokens(text):,} tokens")
        self.prompt_input.focus()
        if not self.is_busy:
            self._count_tokens(chip, text)

    def _count_tokens(self, chip: str, text: str) -> None:
        """Exactly, once the model that is in memory has done it."""
        self.stop_token_count()
        cancel = self._count_cancel = CancelToken()

        def run() -> None:
            try:
                tokens = self.chat_service.count_tokens(text, cancel)
            except PhichatError:
                return  # the estimate stays; what is wrong with the engine the next turn says
            if tokens and not cancel.is_set():
                self.call_later(self.prompt_input.update_chip, chip, f"{tokens:,} tokens")

        self._count_thread = Thread(target=run, name="count", daemon=True)
        self._count_thread.start()

    def stop_token_count(self) -> Thread | None:
        """A backend does one thing at a time: whoever needs it waits for this thread."""
        self._count_cancel.set()
        return self._count_thread

    def _do_context(self, argument: str) -> None:
        self.app.push_screen(TextDialog("What the model sees now", format_context(self.conversation)))

    def _do_stats(self, argument: str) -> None:
        self.app.push_screen(TextDialog("The answer", format_stats(parse_turn_number(self.conversation, argument))))

    def _do_think(self, argument: str) -> None:
        self.conversation_view.action_toggle_fold()

    def _do_copy(self, argument: str) -> None:
        if argument.lower() == "code":
            self.action_copy_code()
        else:
            self.action_copy_text()

    def _do_save(self, argument: str) -> None:
        turn = self.get_target_turn()
        if turn is None:
            return
        if not argument:
            raise UsageError("/save needs a file", "Write its path behind it")
        code_blocks = [block.code for block in turn.blocks if block.is_code]
        self.save_to_file(argument, code_blocks[-1] if code_blocks else turn.text)

    def _do_exit(self, argument: str) -> None:
        self.app.run_worker(self.app.run_action("save_and_quit"))

    def action_show_help(self) -> None:
        """List the keys and commands."""
        self._do_help("")


def complete_path(typed_text: str) -> Sequence[Completion]:
    """Files whose path begins with what stands behind the @."""
    typed_path = expand_user(typed_text)
    folder, prefix = (
        (typed_path, "") if typed_text.endswith("/") or not typed_text else (typed_path.parent, typed_path.name)
    )
    try:
        matches = sorted(path for path in folder.iterdir() if path.name.lower().startswith(prefix.lower()))
    except (OSError, ValueError):
        return ()
    listed = [path for path in matches if prefix.startswith(".") or not path.name.startswith(".")][:30]
    return [Completion(f"@{path}", "folder" if is_folder(path) else _format_size(path), f"{path}") for path in listed]


def is_folder(path: Path) -> bool:
    """Path.is_dir raises for what one may not look at."""
    return os.path.isdir(path)  # noqa: PTH112


def _format_size(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:  # a link that leads nowhere
        return "not there"
    return f"{size:,} bytes, about {-(-size // 4):,} tokens"
