"""The slash commands of the full-screen chat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from phichat.chat.attachments import attached
from phichat.chat.commands import Command
from phichat.chat.conversation import Conversation
from phichat.chat.telling import about_tokens, context_text, options_text, stats_text, turn_number, with_option
from phichat.desk import Desk
from phichat.engine.cancel import Cancel
from phichat.errors import PhichatError, UsageError
from phichat.tui.help import help_text
from phichat.tui.screens.acting import ActingScreen
from phichat.tui.screens.dialogs import Read
from phichat.tui.widgets.completions import Completion


class CommandingScreen(ActingScreen):
    """Runs a command that was typed; what it needs of the running of turns comes from the chat screen."""

    def __init__(self, desk: Desk, talk: Conversation | None = None) -> None:
        super().__init__(desk, talk)
        self._count_cancel = Cancel()
        self._counting: Thread | None = None

    def run_command(self, command: Command) -> None:
        """Errors are told, not raised."""
        try:
            getattr(self, f"_do_{command.name}")(command.rest)
        except PhichatError as error:
            self.tell(f"{error}", grave=True)

    def _do_help(self, rest: str) -> None:
        self.app.push_screen(Read("Keys and commands", help_text()))

    def _do_system(self, rest: str) -> None:
        if not rest:
            self.app.push_screen(Read("System prompt", self.talk.system or "There is none."))
            return
        self.desk.system = self.talk.system = None if rest == "-" else rest
        self.tell("The system prompt is gone." if rest == "-" else "The system prompt is set, from the next turn on.")

    def _do_set(self, rest: str) -> None:
        if not rest:
            self.app.push_screen(Read("Options", options_text(self.desk.params)))
            return
        self.desk.params = with_option(self.desk.params, rest)
        self.tell(f"{rest}, from the next turn on.")

    def _do_new(self, rest: str) -> None:
        self.action_new()

    def _do_clear(self, rest: str) -> None:
        self.action_new()

    def action_new(self) -> None:
        """Begin another conversation."""
        if self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
        else:
            self.open(self.desk.new_talk())

    def _do_regen(self, rest: str) -> None:
        self.action_regenerate()

    def _do_undo(self, rest: str) -> None:
        turn = self._free()
        if turn is not None:
            self._before(turn)
            self.prompt.fill(turn.prompt)

    def _do_edit(self, rest: str) -> None:
        turn = self._free()
        if turn is None:
            return
        if rest:
            self.edited = turn
            self.send_edited(rest)
        else:
            self.action_edit()

    def _do_fork(self, rest: str) -> None:
        if rest:
            turn = turn_number(self.talk, rest)
            self.conversation.select(next(shown for shown in self.conversation.turns if shown.id == turn.id))
        self.action_fork()

    def _do_read(self, rest: str) -> None:
        if not rest:
            raise UsageError("/read needs a file", "write its path behind it")
        self.attach(Path(rest).expanduser())

    def attach(self, path: Path) -> None:
        """Put a file into the prompt, and say how many tokens it has. Raises AttachmentError."""
        text = attached(path)
        chip = self.prompt.attach(path.name, text, f"about {about_tokens(text):,} tokens")
        self.prompt.focus()
        if not self.is_busy:
            self._count(chip, text)

    def _count(self, chip: str, text: str) -> None:
        """Exactly, once the model that is in memory has done it."""
        self.stop_counting()
        cancel = self._count_cancel = Cancel()

        def run() -> None:
            try:
                tokens = self.desk.count(text, cancel)
            except PhichatError:
                return  # the estimate stays; what is wrong with the engine the next turn says
            if tokens and not cancel.is_set():
                self.app.call_from_thread(self.prompt.say_of, chip, f"{tokens:,} tokens")

        self._counting = Thread(target=run, name="count", daemon=True)
        self._counting.start()

    def stop_counting(self) -> Thread | None:
        """A backend does one thing at a time: whoever needs it waits for this thread."""
        self._count_cancel.set()
        return self._counting

    def _do_context(self, rest: str) -> None:
        self.app.push_screen(Read("What the model sees now", context_text(self.talk)))

    def _do_stats(self, rest: str) -> None:
        self.app.push_screen(Read("The answer", stats_text(turn_number(self.talk, rest))))

    def _do_think(self, rest: str) -> None:
        self.conversation.action_fold()

    def _do_copy(self, rest: str) -> None:
        if rest.lower() == "code":
            self.action_copy_code()
        else:
            self.action_copy_text()

    def _do_save(self, rest: str) -> None:
        turn = self.acted_on()
        if turn is None:
            return
        if not rest:
            raise UsageError("/save needs a file", "write its path behind it")
        codes = [block.code for block in turn.blocks if block.is_code]
        self.save(rest, codes[-1] if codes else turn.text)

    def _do_exit(self, rest: str) -> None:
        self.app.run_worker(self.app.run_action("leave"))

    def action_keys(self) -> None:
        """List the keys and commands."""
        self._do_help("")


def files_like(word: str) -> Sequence[Completion]:
    """Files whose path begins with what stands behind the @."""
    typed = Path(word).expanduser()
    folder, begin = (typed, "") if word.endswith("/") or not word else (typed.parent, typed.name)
    try:
        found = sorted(path for path in folder.iterdir() if path.name.lower().startswith(begin.lower()))
    except OSError:
        return ()
    shown = [path for path in found if begin.startswith(".") or not path.name.startswith(".")][:30]
    return [Completion(f"@{path}", "folder" if path.is_dir() else _size(path), f"{path}") for path in shown]


def _size(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError:  # a link that leads nowhere
        return "not there"
    return f"{size:,} bytes, about {-(-size // 4):,} tokens"
