"""Actions on the selected turn, or on the last one: copy, save, regenerate, edit, fork, delete."""

import os
from collections.abc import Callable, Sequence

from phichat.paths import expand_user
from phichat.storage.atomic_write import write_atomically
from phichat.tui import clipboard
from phichat.tui.controllers.context import ChatContext
from phichat.tui.controllers.turn_runner import TurnRunner
from phichat.tui.render.blocks import AnswerBlock
from phichat.tui.screens.dialogs import ConfirmDialog, InputDialog, SelectDialog
from phichat.tui.turn_view import TurnView
from phichat.types import Part

_FILE_SUFFIXES = {"python": "py", "py": "py", "bash": "sh", "javascript": "js"}


class TurnController:
    """Act on a turn. Methods without a dialog raise PhichatError kinds."""

    def __init__(self, context: ChatContext, runner: TurnRunner) -> None:
        self._context, self._runner = context, runner

    def get_target(self) -> TurnView | None:
        """Return the selected turn, else the last one; without turns notify the user and return None."""
        turn = self._context.view.target_turn
        if turn is None:
            self._context.notify("This conversation is empty.")
        return turn

    def get_idle_target(self) -> TurnView | None:
        """Return the turn to change, or None after a notification while an answer is being generated."""
        turn = self.get_target() if self._context.check_idle() else None
        return turn if turn and turn.id else None

    # Copy and save

    def _copy(self, text: str, description: str, warnings: Sequence[str]) -> None:
        command = clipboard.find_clipboard_command()
        if command is not None and clipboard.copy_with_command(command, text):
            status = f"Copied {description}."
        elif clipboard.supports_osc52():
            self._context.screen.app.copy_to_clipboard(text.encode("utf-8", "replace").decode())
            status = f"Copied {description} (via the terminal)."
        else:
            self._context.notify_error(
                "Can't copy: this terminal has no clipboard support, and neither xclip, xsel nor wl-copy can be used. "
                "Press s to save code to a file."
            )
            return
        if warnings:
            more = f" (and {len(warnings) - 1} more)" if len(warnings) > 1 else ""
            status += f" Warning: {warnings[0]}{more}"
        self._context.notify(status)

    def copy_answer(self) -> None:
        """Copy the answer, as the model wrote it."""
        if turn := self.get_target():
            self._copy(turn.text or turn.prompt, "the answer", turn.code_report.warnings)

    def copy_code(self) -> None:
        """Copy a code block of the answer."""
        self._pick_code_block(lambda turn, block: self._copy(block.code, "the code", turn.block_warning_lines(block)))

    def save_code(self) -> None:
        """Save a code block of the answer to a file."""

        def ask_file_name(turn: TurnView, block: AnswerBlock) -> None:
            dialog = InputDialog("Save the code as", f"code.{_FILE_SUFFIXES.get(block.language.lower(), 'txt')}")
            self._context.ask(dialog, lambda name: self.save_to_file(name, block.code))

        self._pick_code_block(ask_file_name)

    def _pick_code_block(self, on_pick: Callable[[TurnView, AnswerBlock], None]) -> None:
        if not (turn := self.get_target()):
            return
        blocks = [block for block in turn.blocks if block.is_code]
        if not blocks:
            self._context.notify("This answer has no code block.")
        elif len(blocks) == 1:
            on_pick(turn, blocks[0])
        else:
            dialog = SelectDialog("Which code block?", [(_format_block(block), block) for block in blocks])
            self._context.ask(dialog, lambda block: on_pick(turn, block))

    def save_last_block(self, name: str) -> None:
        """Save the last code block of the answer, or else the answer."""
        if turn := self.get_target():
            code_blocks = [block.code for block in turn.blocks if block.is_code]
            self.save_to_file(name, code_blocks[-1] if code_blocks else turn.text)

    def save_to_file(self, name: str, text: str) -> None:
        """Write a text to a file; the user confirms that an existing file is replaced."""
        path = expand_user(name)

        def write_file(confirmed: bool) -> None:
            try:
                write_atomically(path, text.encode("utf-8", "replace"))
                self._context.notify(f"Saved {path}.")
            except OSError as error:
                self._context.notify_error(f"Can't write {path}: {error.strerror}.")

        # Path.exists raises for a malformed name; writing to it reports a better error.
        if os.path.exists(path):  # noqa: PTH110
            self._context.ask(ConfirmDialog(f"{path} already exists. Replace it?"), write_file)
        else:
            write_file(confirmed=True)

    # Change the tree of turns

    def regenerate(self) -> None:
        """Answer the same prompt again, as an alternative."""
        if turn := self.get_idle_target():
            self._move_head_before(turn)
            self._runner.send(turn.parts)

    def edit_prompt(self) -> None:
        """Put the prompt of the turn into the prompt box; sending it makes a sibling of the turn."""
        if turn := self.get_idle_target():
            self._context.edited_turn = turn
            self._context.prompt.set_text(turn.prompt)
            self._context.prompt.focus()
            self._context.notify("Editing this prompt. Enter sends it as a new branch.")

    def send(self, parts: Sequence[Part]) -> None:
        """Send a prompt, in place of the one being edited if there is one."""
        turn, self._context.edited_turn = self._context.edited_turn, None
        if turn:
            self._move_head_before(turn)
        self._runner.send(parts)

    def undo(self) -> None:
        """Go back to before the turn, with its prompt in the prompt box."""
        if turn := self.get_idle_target():
            self._move_head_before(turn)
            self._context.prompt.set_text(turn.prompt)

    def _move_head_before(self, turn: TurnView) -> None:
        conversation = self._context.conversation
        conversation.set_head(conversation.get_turn(turn.id).parent)
        self._context.refresh_branch()

    def show_sibling(self, step: int) -> None:
        """Show the previous or next answer to the same place."""
        if not (turn := self.get_idle_target()):
            return
        sibling_ids = self._context.conversation.sibling_ids(turn.id)
        index = sibling_ids.index(turn.id) + step
        if 0 <= index < len(sibling_ids):
            self._context.conversation.switch_to(sibling_ids[index])
            self._context.refresh_branch()
            self._context.view.select_turn_id(sibling_ids[index])

    def delete(self) -> None:
        """Delete the turn and everything after it, once the user has confirmed."""
        if not (turn := self.get_idle_target()):
            return

        def on_confirm(confirmed: bool) -> None:
            with self._context.report_errors():
                self._context.edited_turn = None
                self._context.conversation.remove_turn(turn.id)
            self._context.refresh_branch()

        self._context.ask(ConfirmDialog("Delete this turn and everything after it?"), on_confirm)


def _format_block(block: AnswerBlock) -> str:
    first_line = next((line for line in block.code.splitlines() if line.strip()), "")
    return f"{block.language or 'text'} · {first_line[:40]}"
