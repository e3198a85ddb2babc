"""The prompt box: what is sent, what it may be completed to, and writing it in an editor."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from textual.app import SuspendNotSupported

from phichat.chat.commands import complete, parse, plain_prompt
from phichat.errors import PhichatError, UsageError
from phichat.paths import write_atomically
from phichat.tui.screens.browsing import BrowsingScreen
from phichat.tui.screens.commanding import files_like
from phichat.tui.widgets.completions import Completion, Completions
from phichat.tui.widgets.prompt import Prompt
from phichat.tui.widgets.welcome import TO_TRY, Welcome

_NUMBERS = {f"{number}": prompt for number, prompt in enumerate(TO_TRY, 1)}


class PromptingScreen(BrowsingScreen):
    """Takes what the prompt box says; the chat screen sends it."""

    @property
    def completions(self) -> Completions:
        return self.query_one(Completions)

    def on_prompt_submitted(self, message: Prompt.Submitted) -> None:
        try:
            command = parse(message.text)
        except UsageError as error:
            self.tell(f"{error}", grave=True)
            self.prompt.fill(message.text)
            return
        if command is not None:
            self.run_command(command)
        elif self.is_busy:
            self.tell("An answer is being written; Esc stops it.")
            self.prompt.fill(message.text)
        else:
            self.send_edited(plain_prompt(message.text))

    def on_text_area_changed(self) -> None:
        """Offer what the text may become: commands, or files behind an @."""
        text = self.prompt.text
        offers = [Completion(help.usage, help.does, f"/{help.name} ") for help in complete(text)]
        before, at, word = text.rpartition("@")
        if not offers and at and not word.count(" ") and (not before or before[-1].isspace()):
            offers = list(files_like(word))
        if not offers and self.query_one(Welcome).display and text in _NUMBERS:
            offers = [Completion(f"{text}  {_NUMBERS[text]}", "", _NUMBERS[text])]
        self.completions.offer(offers)
        self.prompt.completing = bool(offers)

    def on_prompt_asks(self, message: Prompt.Asks) -> None:
        offers = self.completions
        match message.key:
            case "up":
                offers.action_cursor_up()
            case "down":
                offers.action_cursor_down()
            case "escape":
                offers.offer([])
                self.prompt.completing = False
            case _:
                self._complete(offers.chosen, sends=message.key == "enter")

    def _complete(self, chosen: Completion | None, *, sends: bool) -> None:
        text = self.prompt.text
        if chosen is None:
            return
        if text.startswith("/"):
            typed = text.strip()[1:]
            if sends and (chosen.label == f"/{typed}" or chosen.becomes.strip() == f"/{typed}"):
                self.prompt.submit()
            else:
                self.prompt.fill(chosen.becomes)
            return
        if text in _NUMBERS:
            self.prompt.fill(chosen.becomes)
            return
        path = Path(chosen.becomes)
        before, _, _ = text.rpartition("@")
        pastes = self.prompt.pastes
        if path.is_dir():
            self.prompt.fill(f"{before}@{path}/", pastes)
            return
        self.prompt.fill(before, pastes)
        try:
            self.attach(path)
        except PhichatError as error:
            self.tell(f"{error}", grave=True)

    def action_editor(self) -> None:
        """Write the prompt in $EDITOR."""
        command = os.environ.get("VISUAL") or os.environ.get("EDITOR")
        if not command:
            self.tell("No editor is named: set EDITOR.", grave=True)
            return
        with TemporaryDirectory() as folder:
            file = Path(folder) / "prompt.md"
            write_atomically(file, self.prompt.value.encode("utf-8", "replace"))
            try:
                with self.app.suspend():
                    subprocess.run([*shlex.split(command), str(file)], check=False)
                self.prompt.fill(file.read_text("utf-8", "replace").rstrip("\n"))
            except (OSError, ValueError, SuspendNotSupported) as why:
                self.tell(f"{command} cannot be run ({why}).", grave=True)
