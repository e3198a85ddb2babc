"""The prompt box: what is sent, what it may be completed to, and writing it in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from textual.app import SuspendNotSupported

from phichat.chat.slash_commands import complete_command, parse_command, unescape_prompt
from phichat.errors import PhichatError, UsageError
from phichat.storage.atomic_write import write_atomically
from phichat.tui.controllers.commands import complete_path, is_folder
from phichat.tui.controllers.conversations import BrowsingScreen
from phichat.tui.widgets.completions import Completion, CompletionList
from phichat.tui.widgets.prompt import PromptInput
from phichat.tui.widgets.welcome import EXAMPLE_PROMPTS, Welcome

_EXAMPLE_BY_NUMBER = {f"{number}": prompt for number, prompt in enumerate(EXAMPLE_PROMPTS, 1)}


class PromptingScreen(BrowsingScreen):
    """Takes what the prompt box says; the chat screen sends it."""

    @property
    def completion_list(self) -> CompletionList:
        return self.query_one(CompletionList)

    def on_prompt_input_submitted(self, message: PromptInput.Submitted) -> None:
        try:
            command = parse_command(message.text)
        except UsageError as error:
            self.notify_user(f"{error}", is_error=True)
            self.prompt_input.set_text(message.text)
            return
        if command is not None:
            self.run_command(command)
        elif self.is_busy:
            self.notify_user("An answer is being written; Esc stops it.")
            self.prompt_input.set_text(message.text)
        else:
            self.send_edited(unescape_prompt(message.text))

    def on_text_area_changed(self) -> None:
        """Offer what the text may become: commands, or files behind an @."""
        text = self.prompt_input.text
        candidates = [Completion(help.usage, help.description, f"/{help.name} ") for help in complete_command(text)]
        prefix, separator, typed_path = text.rpartition("@")
        if not candidates and separator and not typed_path.count(" ") and (not prefix or prefix[-1].isspace()):
            candidates = list(complete_path(typed_path))
        if not candidates and self.query_one(Welcome).display and text in _EXAMPLE_BY_NUMBER:
            candidates = [Completion(f"{text}  {_EXAMPLE_BY_NUMBER[text]}", "", _EXAMPLE_BY_NUMBER[text])]
        self.completion_list.show_completions(candidates)
        self.prompt_input.is_completing = bool(candidates)

    def on_prompt_input_completion_key(self, message: PromptInput.CompletionKey) -> None:
        completions = self.completion_list
        match message.key:
            case "up":
                completions.action_cursor_up()
            case "down":
                completions.action_cursor_down()
            case "escape":
                completions.show_completions([])
                self.prompt_input.is_completing = False
            case _:
                self._apply_completion(completions.highlighted_completion, submit=message.key == "enter")

    def _apply_completion(self, completion: Completion | None, *, submit: bool) -> None:
        text = self.prompt_input.text
        if completion is None:
            return
        if text.startswith("/"):
            typed = text.strip()[1:]
            if submit and (completion.label == f"/{typed}" or completion.replacement.strip() == f"/{typed}"):
                self.prompt_input.submit_text()
            else:
                self.prompt_input.set_text(completion.replacement)
            return
        if text in _EXAMPLE_BY_NUMBER:
            self.prompt_input.set_text(completion.replacement)
            return
        path = Path(completion.replacement)
        prefix, _, _ = text.rpartition("@")
        pastes = self.prompt_input.pastes
        if is_folder(path):
            self.prompt_input.set_text(f"{prefix}@{path}/", pastes)
            return
        self.prompt_input.set_text(prefix, pastes)
        try:
            self.attach_file(path)
        except PhichatError as error:
            self.notify_user(f"{error}", is_error=True)

    def action_open_editor(self) -> None:
        """Write the prompt in $EDITOR."""
        command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not command:
            self.notify_user("No editor is named: set EDITOR.", is_error=True)
            return
        with TemporaryDirectory() as folder:
            file = Path(folder) / "prompt.md"
            write_atomically(file, self.prompt_input.full_text.encode("utf-8", "replace"))
            try:
                with self.app.suspend():
                    subprocess.run([*shlex.split(command), str(file)], check=False)
                self.prompt_input.set_text(file.read_text("utf-8", "replace").rstrip("\n"))
            except (OSError, ValueError, SuspendNotSupported) as error:
                self.notify_user(f"{command} cannot be run ({error}).", is_error=True)
