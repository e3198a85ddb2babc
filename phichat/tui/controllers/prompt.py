"""The prompt box: complete, attach files, edit in an editor."""

import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from textual.app import SuspendNotSupported

from phichat.chat.attachments import read_attachment
from phichat.chat.command_output import estimate_tokens
from phichat.chat.slash_commands import complete_command
from phichat.paths import expand_user
from phichat.storage.atomic_write import write_atomically
from phichat.tui.controllers.context import ChatContext
from phichat.tui.controllers.turn_runner import TurnRunner
from phichat.tui.widgets.prompt import Completion
from phichat.tui.widgets.welcome import EXAMPLE_PROMPTS
from phichat.types import render_parts
from phichat.units import format_count

_EXAMPLE_BY_NUMBER = {f"{number}": prompt for number, prompt in enumerate(EXAMPLE_PROMPTS, 1)}
_MAX_PATHS = 30


class PromptController:
    """Handle what the user types before it is sent."""

    def __init__(self, context: ChatContext, runner: TurnRunner) -> None:
        self._context, self._runner = context, runner

    # Completions

    def update_completions(self) -> None:
        """Offer commands after a slash, files after an @, and an example for its number."""
        text = self._context.prompt.text
        candidates = [Completion(help.usage, help.description, f"/{help.name} ") for help in complete_command(text)]
        prefix, separator, typed_path = text.rpartition("@")
        if not candidates and separator and not typed_path.count(" ") and (not prefix or prefix[-1].isspace()):
            candidates = list(_complete_path(typed_path))
        if not candidates and self._context.welcome.display and text in _EXAMPLE_BY_NUMBER:
            example = _EXAMPLE_BY_NUMBER[text]
            candidates = [Completion(f"{text}  {example}", "", example)]
        self._show_completions(candidates)

    def _show_completions(self, candidates: Sequence[Completion]) -> None:
        self._context.completions.show_completions(candidates)
        self._context.prompt.is_completing = bool(candidates)

    def handle_completion_key(self, key: str) -> None:
        """Move in the list of completions, close it, or apply the highlighted one."""
        match key:
            case "up":
                self._context.completions.action_cursor_up()
            case "down":
                self._context.completions.action_cursor_down()
            case "escape":
                self._show_completions([])
            case _ if completion := self._context.completions.highlighted_completion:
                self._apply_completion(completion, submit=key == "enter")

    def _apply_completion(self, completion: Completion, *, submit: bool) -> None:
        prompt = self._context.prompt
        text, replacement = prompt.text, completion.replacement
        path, prefix, pastes = Path(replacement), text.rpartition("@")[0], prompt.pastes
        is_command = text.startswith("/")
        if is_command and submit and text.strip() in (completion.label, replacement.strip()):
            prompt.submit_text()
        elif is_command or text in _EXAMPLE_BY_NUMBER:
            prompt.set_text(replacement)
        elif _is_folder(path):
            prompt.set_text(f"{prefix}@{path}/", pastes)
        else:
            prompt.set_text(prefix, pastes)
            with self._context.report_errors():
                self.attach_file(path)

    def attach_file(self, path: Path) -> None:
        """Insert a file as a chip with its tokens: an estimate, then the exact number. Raises AttachmentError."""
        file, prompt = read_attachment(path), self._context.prompt
        text = render_parts([file])
        chip = prompt.insert_file(file, f"about {estimate_tokens(text):,} tokens")
        prompt.focus()
        self._runner.count_tokens(text, lambda tokens: prompt.update_chip(chip, f"{tokens:,} tokens"))

    def open_editor(self) -> None:
        """Edit the prompt in $VISUAL or $EDITOR."""
        command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not command:
            self._context.notify_error("No editor set. Set $EDITOR (or $VISUAL).")
            return
        prompt = self._context.prompt
        with TemporaryDirectory() as folder:
            file = Path(folder) / "prompt.md"
            write_atomically(file, prompt.full_text.encode("utf-8", "replace"))
            try:
                with self._context.screen.app.suspend():
                    subprocess.run([*shlex.split(command), str(file)], check=False)
                prompt.set_text(file.read_text("utf-8", "replace").rstrip("\n"))
            except (OSError, ValueError, SuspendNotSupported) as error:
                self._context.notify_error(f"Can't run {command}: {error}.")


def _complete_path(typed_text: str) -> Sequence[Completion]:
    """Return the files whose path begins with the text after the @."""
    path = expand_user(typed_text)
    folder, prefix = (path.parent, path.name) if typed_text and not typed_text.endswith("/") else (path, "")
    try:
        matches = sorted(path for path in folder.iterdir() if path.name.lower().startswith(prefix.lower()))
    except (OSError, ValueError):
        return ()
    visible = [path for path in matches if prefix.startswith(".") or not path.name.startswith(".")]
    return [Completion(f"@{path}", _describe_path(path), f"{path}") for path in visible[:_MAX_PATHS]]


def _is_folder(path: Path) -> bool:
    """Return False instead of raising, as Path.is_dir does, for a path that must not be read."""
    return os.path.isdir(path)  # noqa: PTH112


def _describe_path(path: Path) -> str:
    if _is_folder(path):
        return "folder"
    try:
        size = path.stat().st_size
    except OSError:  # a dangling link
        return "missing"
    return f"{size:,} bytes, about {format_count(-(-size // 4), 'token')}"
