"""What can be done with a turn that is selected, or with the last one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual.screen import Screen

from phichat.errors import PhichatError
from phichat.paths import expand_user
from phichat.sanitize import sanitize_line
from phichat.storage.atomic_write import write_atomically
from phichat.tui import clipboard
from phichat.tui.render.blocks import AnswerBlock
from phichat.tui.screens.dialogs import ConfirmDialog, InputDialog, SelectDialog, SelectOption
from phichat.tui.turn_view import TurnView, build_turn_views
from phichat.tui.widgets.conversation import ConversationView
from phichat.tui.widgets.prompt import PromptInput

if TYPE_CHECKING:
    from phichat.chat.conversation import Conversation
    from phichat.services.chat_service import ChatService


class ActingScreen(Screen[None]):
    """The actions on turns; the chat screen adds the running of them."""

    def __init__(self, chat_service: ChatService, conversation: Conversation | None = None) -> None:
        super().__init__()
        self.chat_service = chat_service
        self.conversation: Conversation = conversation or chat_service.new_conversation()
        self.edited_turn: TurnView | None = None

    @property
    def conversation_view(self) -> ConversationView:
        return self.query_one(ConversationView)

    @property
    def prompt_input(self) -> PromptInput:
        return self.query_one(PromptInput)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being written; the tree of turns stays as it is then."""
        raise NotImplementedError

    def send_prompt(self, prompt: str) -> None:
        """Ask after the turn where the conversation stands."""
        raise NotImplementedError

    def open_conversation(self, conversation: Conversation) -> None:
        """Show another conversation."""
        raise NotImplementedError

    def notify_user(self, text: str, *, is_error: bool = False) -> None:
        """A word at the corner of the screen."""
        self.notify(sanitize_line(text), severity="error" if is_error else "information", markup=False)

    def get_target_turn(self) -> TurnView | None:
        """The turn that is meant; without one, or while an answer is written, the user is told."""
        turn = self.conversation_view.selected_turn or next(reversed(self.conversation_view.turns), None)
        if turn is None:
            self.notify_user("There is nothing here yet.")
        return turn

    def _get_idle_target(self) -> TurnView | None:
        if self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
            return None
        turn = self.get_target_turn()
        return turn if turn is not None and turn.id else None

    def refresh_branch(self) -> None:
        """The branch where the conversation stands now."""
        self.conversation_view.show_turns(build_turn_views(self.conversation))

    # Copying

    def copy_text(self, text: str, description: str) -> None:
        """Into the clipboard, and say how."""
        command = clipboard.find_clipboard_command()
        if command is not None and clipboard.copy_with_command(command, text):
            self.notify_user(f"Copied {description}.")
        elif clipboard.supports_osc52():
            self.app.copy_to_clipboard(text.encode("utf-8", "replace").decode())
            self.notify_user(f"Asked the terminal to copy {description}.")
        else:
            self.notify_user(
                "Nothing here can copy: this terminal cannot, and there is no tool. Save it with s.", is_error=True
            )

    def action_copy_text(self) -> None:
        """The answer, as the model wrote it."""
        turn = self.get_target_turn()
        if turn is not None:
            self.copy_text(turn.text or turn.prompt, "the answer" + _format_warnings(turn, turn.code_report.warnings))

    def action_copy_code(self) -> None:
        """A code block of the answer; with several one chooses."""
        self._pick_code_block(
            lambda turn, block: self.copy_text(
                block.code, "the code" + _format_warnings(turn, turn.block_warning_lines(block))
            )
        )

    def action_save_code(self) -> None:
        """A code block of the answer, to a file."""

        def ask_file_name(turn: TurnView, block: AnswerBlock) -> None:
            def on_answer(name: str | None) -> None:
                if name:
                    self.save_to_file(name, block.code)

            suffix = {"python": "py", "py": "py", "bash": "sh", "javascript": "js"}.get(block.language.lower(), "txt")
            self.app.push_screen(InputDialog("Save the code as", f"code.{suffix}"), on_answer)

        self._pick_code_block(ask_file_name)

    def _pick_code_block(self, on_pick: Callable[[TurnView, AnswerBlock], None]) -> None:
        turn = self.get_target_turn()
        if turn is None:
            return
        blocks = [block for block in turn.blocks if block.is_code]
        if not blocks:
            self.notify_user("This answer has no code block.")
        elif len(blocks) == 1:
            on_pick(turn, blocks[0])
        else:

            def on_select(block: AnswerBlock | None) -> None:
                if block is not None:
                    on_pick(turn, block)

            self.app.push_screen(SelectDialog("Which block?", [_block_option(block) for block in blocks]), on_select)

    def save_to_file(self, name: str, text: str) -> None:
        """Into a new file; one that is there is asked about."""
        path = expand_user(name)

        def write_file() -> None:
            try:
                write_atomically(path, text.encode("utf-8", "replace"))
            except OSError as error:
                self.notify_user(f"{path} cannot be written ({error.strerror}).", is_error=True)
            else:
                self.notify_user(f"Saved {path}.")

        def on_confirm(confirmed: bool | None) -> None:
            if confirmed:
                write_file()

        # Path.exists raises for what can be no name, which writing to it tells better.
        if os.path.exists(path):  # noqa: PTH110
            self.app.push_screen(ConfirmDialog(f"{path} is there already. Replace it?"), on_confirm)
        else:
            write_file()

    # The tree

    def action_regenerate(self) -> None:
        """Answer the same prompt once more, beside the answer there is."""
        turn = self._get_idle_target()
        if turn is not None:
            self._move_head_before(turn)
            self.send_prompt(turn.prompt)

    def action_edit_prompt(self) -> None:
        """Bring the prompt back; sending it makes a sibling."""
        turn = self._get_idle_target()
        if turn is not None:
            self.edited_turn = turn
            self.prompt_input.set_text(turn.prompt)
            self.prompt_input.focus()
            self.notify_user("Change the prompt and send it; the old answer stays beside it.")

    def send_edited(self, prompt: str) -> None:
        """The changed prompt, in the place of the one that was edited."""
        turn, self.edited_turn = self.edited_turn, None
        if turn is not None:
            self._move_head_before(turn)
        self.send_prompt(prompt)

    def _move_head_before(self, turn: TurnView) -> None:
        self.conversation.set_head(self.conversation.get_turn(turn.id).parent)
        self.refresh_branch()

    def action_show_sibling(self, step: int) -> None:
        """The answer before or after this one, at the same place."""
        turn = self._get_idle_target()
        if turn is None:
            return
        sibling_ids = self.conversation.sibling_ids(turn.id)
        index = sibling_ids.index(turn.id) + step
        if not 0 <= index < len(sibling_ids):
            return
        self.conversation.switch_to(sibling_ids[index])
        self.refresh_branch()
        self.conversation_view.select_turn(
            next((other for other in self.conversation_view.turns if other.id == sibling_ids[index]), None)
        )

    def action_fork_conversation(self) -> None:
        """Go on in a copy of the conversation up to this turn."""
        turn = self._get_idle_target()
        if turn is None:
            return
        try:
            self.open_conversation(self.chat_service.fork_conversation(self.conversation, turn.id))
        except PhichatError as error:
            self.notify_user(f"{error}", is_error=True)
        else:
            self.notify_user("This is a copy; the conversation it comes from stays as it is.")

    def action_delete_turn(self) -> None:
        """Remove a turn and what followed it."""
        turn = self._get_idle_target()
        if turn is None:
            return

        def on_confirm(confirmed: bool | None) -> None:
            if confirmed:
                try:
                    self.conversation.remove_turn(turn.id)
                except PhichatError as error:
                    self.notify_user(f"{error}", is_error=True)
                self.refresh_branch()

        self.app.push_screen(ConfirmDialog("Delete this turn and all that followed it?"), on_confirm)


def _format_warnings(turn: TurnView, warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    more = f" and {len(warnings) - 1} more" if len(warnings) > 1 else ""
    return f", which was warned about: {warnings[0]}{more}"


def _block_option(block: AnswerBlock) -> SelectOption[AnswerBlock]:
    first = next((line for line in block.code.splitlines() if line.strip()), "")
    return SelectOption(f"line {block.line}: {first[:40]}", block, block.language)
