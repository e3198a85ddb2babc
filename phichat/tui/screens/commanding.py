"""The slash commands of the full-screen chat."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from phichat.chat.attachments import attached
from phichat.chat.commands import Command
from phichat.chat.telling import commands_text, context_text, options_text, stats_text, turn_number, with_option
from phichat.errors import PhichatError, UsageError
from phichat.tui.screens.acting import ActingScreen
from phichat.tui.screens.dialogs import Read
from phichat.tui.widgets.completions import Completion

_KEYS = (
    ("Enter", "send"),
    ("Ctrl+J, Shift+Enter", "new line"),
    ("Up, Down", "prompts sent before, at the edges of the box"),
    ("Esc, Ctrl+C", "stop; Ctrl+C twice quits"),
    ("Ctrl+T", "go to the turns; Up and Down select one, Esc goes back"),
    ("  c  y  s", "copy the answer, copy a code block, save one"),
    ("  r  e  f  d", "answer again, edit the prompt, fork, delete"),
    ("  Left, Right", "the other answers at this place"),
    ("  Space", "fold or unfold reasoning and long prompts"),
    ("Ctrl+Up, Ctrl+Down", "the warning before, the next one"),
    ("Ctrl+N", "another conversation"),
    ("Ctrl+B, F2", "all conversations, and search"),
    ("Ctrl+O", "models"),
    ("Ctrl+G", "write the prompt in $EDITOR"),
    ("Ctrl+P", "all actions by name"),
    ("Ctrl+Q", "quit"),
)


class CommandingScreen(ActingScreen):
    """Runs a command that was typed; what it needs of the running of turns comes from the chat screen."""

    def run_command(self, command: Command) -> None:
        """Errors are told, not raised."""
        try:
            getattr(self, f"_do_{command.name}")(command.rest)
        except PhichatError as error:
            self.tell(f"{error}", grave=True)

    def _do_help(self, rest: str) -> None:
        self.app.push_screen(Read("Keys and commands", _help()))

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
        """Put a file into the prompt. Raises AttachmentError."""
        self.prompt.attach(path.name, attached(path))
        self.prompt.focus()

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


def _help() -> Text:
    text = Text()
    for key, does in _KEYS:
        text.append(f"{key:<22}", "bold")
        text.append(f"{does}\n")
    text.append("\n")
    text.append(f"{commands_text()}\n")
    text.append("\n@ and the beginning of a path attach a file; // begins a prompt with a slash.", "dim")
    return text


def files_like(word: str) -> Sequence[Completion]:
    """Files whose path begins with what stands behind the @."""
    typed = Path(word).expanduser()
    folder, begin = (typed, "") if word.endswith("/") or not word else (typed.parent, typed.name)
    try:
        found = sorted(path for path in folder.iterdir() if path.name.lower().startswith(begin.lower()))
    except OSError:
        return ()
    shown = [path for path in found if begin.startswith(".") or not path.name.startswith(".")][:30]
    return [
        Completion(f"@{path}", "folder" if path.is_dir() else f"{path.stat().st_size:,} bytes", f"{path}")
        for path in shown
    ]
