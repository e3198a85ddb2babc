"""What can be done with a turn that is selected, or with the last one."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from textual.screen import Screen

from phichat.errors import PhichatError
from phichat.paths import expanded, write_atomically
from phichat.terminal import clean_line
from phichat.tui import clipboard
from phichat.tui.pieces import Block
from phichat.tui.screens.dialogs import Ask, AskLine, Choice, Choose
from phichat.tui.turns import ShownTurn, shown
from phichat.tui.widgets.conversation import Conversation
from phichat.tui.widgets.prompt import Prompt

if TYPE_CHECKING:
    from phichat.chat.conversation import Conversation as Talk
    from phichat.desk import Desk


class ActingScreen(Screen[None]):
    """The actions on turns; the chat screen adds the running of them."""

    def __init__(self, desk: Desk, talk: Talk | None = None) -> None:
        super().__init__()
        self.desk = desk
        self.talk: Talk = talk or desk.new_talk()
        self.edited: ShownTurn | None = None

    @property
    def conversation(self) -> Conversation:
        return self.query_one(Conversation)

    @property
    def prompt(self) -> Prompt:
        return self.query_one(Prompt)

    @property
    def is_busy(self) -> bool:
        """Whether an answer is being written; the tree of turns stays as it is then."""
        raise NotImplementedError

    def send(self, prompt: str) -> None:
        """Ask after the turn where the conversation stands."""
        raise NotImplementedError

    def open(self, talk: Talk) -> None:
        """Show another conversation."""
        raise NotImplementedError

    def tell(self, text: str, *, grave: bool = False) -> None:
        """A word at the corner of the screen."""
        self.notify(clean_line(text), severity="error" if grave else "information", markup=False)

    def acted_on(self) -> ShownTurn | None:
        """The turn that is meant; without one, or while an answer is written, the user is told."""
        turn = self.conversation.selected or next(reversed(self.conversation.turns), None)
        if turn is None:
            self.tell("There is nothing here yet.")
        return turn

    def _free(self) -> ShownTurn | None:
        if self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
            return None
        turn = self.acted_on()
        return turn if turn is not None and turn.id else None

    def reshow(self) -> None:
        """The branch where the conversation stands now."""
        self.conversation.show(shown(self.talk))

    # Copying

    def copy(self, text: str, what: str) -> None:
        """Into the clipboard, and say how."""
        command = clipboard.tool()
        if command is not None and clipboard.copy_with(command, text):
            self.tell(f"Copied {what}.")
        elif clipboard.terminal_copies():
            self.app.copy_to_clipboard(text.encode("utf-8", "replace").decode())
            self.tell(f"Asked the terminal to copy {what}.")
        else:
            self.tell("Nothing here can copy: this terminal cannot, and there is no tool. Save it with s.", grave=True)

    def action_copy_text(self) -> None:
        """The answer, as the model wrote it."""
        turn = self.acted_on()
        if turn is not None:
            self.copy(turn.text or turn.prompt, "the answer" + _warned(turn, turn.report.warnings))

    def action_copy_code(self) -> None:
        """A code block of the answer; with several one chooses."""
        self._with_code(lambda turn, block: self.copy(block.code, "the code" + _warned(turn, turn.warnings(block))))

    def action_save_code(self) -> None:
        """A code block of the answer, to a file."""

        def ask(turn: ShownTurn, block: Block) -> None:
            def answered(name: str | None) -> None:
                if name:
                    self.save(name, block.code)

            suffix = {"python": "py", "py": "py", "bash": "sh", "javascript": "js"}.get(block.language.lower(), "txt")
            self.app.push_screen(AskLine("Save the code as", f"code.{suffix}"), answered)

        self._with_code(ask)

    def _with_code(self, act: Callable[[ShownTurn, Block], None]) -> None:
        turn = self.acted_on()
        if turn is None:
            return
        blocks = [block for block in turn.blocks if block.is_code]
        if not blocks:
            self.tell("This answer has no code block.")
        elif len(blocks) == 1:
            act(turn, blocks[0])
        else:

            def chosen(block: Block | None) -> None:
                if block is not None:
                    act(turn, block)

            self.app.push_screen(Choose("Which block?", [_choice(block) for block in blocks]), chosen)

    def save(self, name: str, text: str) -> None:
        """Into a new file; one that is there is asked about."""
        path = expanded(name)

        def write() -> None:
            try:
                write_atomically(path, text.encode("utf-8", "replace"))
            except OSError as why:
                self.tell(f"{path} cannot be written ({why.strerror}).", grave=True)
            else:
                self.tell(f"Saved {path}.")

        def answered(yes: bool | None) -> None:
            if yes:
                write()

        # Path.exists raises for what can be no name, which writing to it tells better.
        if os.path.exists(path):  # noqa: PTH110
            self.app.push_screen(Ask(f"{path} is there already. Replace it?"), answered)
        else:
            write()

    # The tree

    def action_regenerate(self) -> None:
        """Answer the same prompt once more, beside the answer there is."""
        turn = self._free()
        if turn is not None:
            self._before(turn)
            self.send(turn.prompt)

    def action_edit(self) -> None:
        """Bring the prompt back; sending it makes a sibling."""
        turn = self._free()
        if turn is not None:
            self.edited = turn
            self.prompt.fill(turn.prompt)
            self.prompt.focus()
            self.tell("Change the prompt and send it; the old answer stays beside it.")

    def send_edited(self, prompt: str) -> None:
        """The changed prompt, in the place of the one that was edited."""
        turn, self.edited = self.edited, None
        if turn is not None:
            self._before(turn)
        self.send(prompt)

    def _before(self, turn: ShownTurn) -> None:
        self.talk.stand_at(self.talk.turn(turn.id).parent)
        self.reshow()

    def action_sibling(self, step: int) -> None:
        """The answer before or after this one, at the same place."""
        turn = self._free()
        if turn is None:
            return
        same = self.talk.siblings(turn.id)
        at = same.index(turn.id) + step
        if not 0 <= at < len(same):
            return
        self.talk.show(same[at])
        self.reshow()
        self.conversation.select(next((other for other in self.conversation.turns if other.id == same[at]), None))

    def action_fork(self) -> None:
        """Go on in a copy of the conversation up to this turn."""
        turn = self._free()
        if turn is None:
            return
        try:
            self.open(self.desk.fork(self.talk, turn.id))
        except PhichatError as error:
            self.tell(f"{error}", grave=True)
        else:
            self.tell("This is a copy; the conversation it comes from stays as it is.")

    def action_delete(self) -> None:
        """Remove a turn and what followed it."""
        turn = self._free()
        if turn is None:
            return

        def answered(yes: bool | None) -> None:
            if yes:
                try:
                    self.talk.remove(turn.id)
                except PhichatError as error:
                    self.tell(f"{error}", grave=True)
                self.reshow()

        self.app.push_screen(Ask("Delete this turn and all that followed it?"), answered)


def _warned(turn: ShownTurn, warnings: Sequence[str]) -> str:
    if not warnings:
        return ""
    more = f" and {len(warnings) - 1} more" if len(warnings) > 1 else ""
    return f", which was warned about: {warnings[0]}{more}"


def _choice(block: Block) -> Choice[Block]:
    first = next((line for line in block.code.splitlines() if line.strip()), "")
    return Choice(f"line {block.line}: {first[:40]}", block, block.language)
