"""The prompt box, which has a history and shows a large paste as a chip, and the list of completions above it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.events import Key, Paste
from textual.message import Message
from textual.widgets import OptionList, TextArea
from textual.widgets.option_list import Option

from phichat.sanitize import sanitize, sanitize_line
from phichat.types import FilePart, Part, TextPart, render_parts

_MAX_COMPLETIONS = 50
_MAX_INLINE_CHARS = 2_000
_MAX_INLINE_LINES = 20
_CHIP_BRACKETS = re.compile("[⟦⟧]")
_CHIP_PATTERN = re.compile(r"⟦[^⟦⟧]*⟧")


class PromptInput(TextArea):
    """Enter sends; Shift+Enter and Ctrl+J insert a newline; Up and Down at the edges walk through the history.

    A paste that is large, or contains characters that a terminal could interpret, is one chip in the text;
    `full_text` has the paste itself, unchanged.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", show=False),
        Binding("pageup", "screen.scroll_page(-1)", "Scroll the conversation up", show=False),
        Binding("pagedown", "screen.scroll_page(1)", "Scroll the conversation down", show=False),
        Binding("ctrl+home", "screen.jump_to_top", "Jump to the top of the conversation", show=False),
        Binding("ctrl+end", "screen.jump_to_end", "Jump to the bottom of the conversation", show=False),
    ]
    HELP_BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send"),
        Binding("up", "before", "Previous prompt (from the first line)"),
        Binding("down", "after", "Next prompt (from the last line)"),
        Binding("tab", "complete", "Complete a command or a path"),
    ]
    """Keys that depend on the cursor, for the help; `_on_key` handles them."""

    @dataclass
    class Submitted(Message):
        """The user sent a prompt or a command. text: everything, parts: the same with attached files as parts."""

        text: str
        parts: Sequence[Part]

    @dataclass
    class CompletionKey(Message):
        """A key for the open list of completions."""

        key: str

    def __init__(self) -> None:
        super().__init__(soft_wrap=True, show_line_numbers=False, tab_behavior="focus", compact=True)
        self.placeholder = "Ask anything · / for commands · @ to attach a file"
        self._pastes: dict[str, str] = {}
        self._files: dict[str, FilePart] = {}
        self._history: Sequence[str] = ()
        self._history_index: int | None = None
        self._unsent_text = ""
        # Textual runs a binding after the key has bubbled up to the app. Text typed right after the key would
        # already be inserted then, and Ctrl+U would delete it too.
        bindings = Binding.make_bindings([*TextArea.BINDINGS, *self.BINDINGS])
        self._action_by_key = {binding.key: binding.action for binding in bindings}
        self.is_completing = False
        """True while the list of completions is open, which Up, Down, Tab and Enter then belong to."""

    @property
    def full_text(self) -> str:
        """The text with each chip replaced by its paste."""
        return self._expand_chips(self.text)

    def _expand_chips(self, text: str) -> str:
        return _CHIP_PATTERN.sub(lambda chip: self._pastes.get(chip.group(), chip.group()), text)

    @property
    def parts(self) -> Sequence[Part]:
        """The text and the attached files, in the order of the text."""
        if not self._files:
            return [TextPart(self.full_text)]
        pieces = filter(str.strip, re.split(f"({'|'.join(map(re.escape, self._files))})", self.text))
        return [self._files.get(piece) or TextPart(self._expand_chips(piece).strip()) for piece in pieces]

    @property
    def pastes(self) -> Mapping[str, str]:
        """The pasted text of each chip."""
        return {chip: text for chip, text in self._pastes.items() if chip in self.text}

    def set_text(self, text: str, pastes: Mapping[str, str] | None = None) -> None:
        """Replace the text, and move the cursor to its end."""
        self._pastes = dict(pastes or {})
        if pastes is None and _needs_chip(text):
            text = self._make_chip(text)
        self.text = text
        self.move_cursor(self.document.end)

    def insert_file(self, file: FilePart, size_text: str) -> str:
        """Insert a file at the cursor as a chip that shows its name and size; return the chip."""
        chip = f"⟦{_CHIP_BRACKETS.sub(' ', sanitize_line(file.name))}: {size_text}⟧"
        self._pastes[chip], self._files[chip] = render_parts([file]), file
        self.insert(chip)
        return chip

    def update_chip(self, chip: str, size_text: str) -> None:
        """Replace the size that a chip shows, if the chip is still in the text."""
        if chip not in self.text or chip not in self._files:
            return
        row, line = next((row, line) for row, line in enumerate(self.text.split("\n")) if chip in line)
        new_chip = f"{chip.rpartition(': ')[0]}: {size_text}⟧"
        self._pastes[new_chip], self._files[new_chip] = self._pastes.pop(chip), self._files.pop(chip)
        column = line.index(chip)
        self.replace(new_chip, (row, column), (row, column + len(chip)), maintain_selection_offset=True)

    def set_history(self, prompts: Sequence[str]) -> None:
        """Replace the history, oldest prompt first."""
        self._history, self._history_index = prompts, None

    def submit_text(self) -> None:
        """Send the text, unless it is blank."""
        text, parts = self.full_text, self.parts
        if text.strip():
            self._files.clear()
            self.set_history([*self._history, text])
            self.set_text("")
            self.post_message(self.Submitted(text, parts))

    def action_newline(self) -> None:
        """Insert a newline at the cursor."""
        self.insert("\n")

    async def _on_key(self, event: Key) -> None:
        row = self.cursor_location[0]
        match event.key:
            case "up" | "down" | "tab" | "enter" | "escape" as key if self.is_completing:
                self.post_message(self.CompletionKey(key))
            case "enter":
                self.submit_text()
            case "up" if row == 0 and self.selection.is_empty and self._history:
                self._navigate_history(-1)
            case "down" if row == self.document.line_count - 1 and self._history_index is not None:
                self._navigate_history(1)
            case key if key in self._action_by_key:
                await self.run_action(self._action_by_key[key])
            case _:
                await super()._on_key(event)
                return
        event.stop()
        event.prevent_default()

    def _navigate_history(self, step: int) -> None:
        if self._history_index is None:
            self._unsent_text, self._history_index = self.full_text, len(self._history)
        index = max(0, self._history_index + step)
        self._history_index = index if index < len(self._history) else None
        self.set_text(self._unsent_text if self._history_index is None else self._history[index])

    async def _on_paste(self, event: Paste) -> None:
        event.stop()
        event.prevent_default()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        self.insert(self._make_chip(text) if _needs_chip(text) else text)

    def _make_chip(self, text: str) -> str:
        lines = text.count("\n") + 1
        chip = f"⟦paste {len(self._pastes) + 1}: {len(text):,} characters, {lines:,} lines⟧"
        self._pastes[chip] = text
        return chip


def _needs_chip(text: str) -> bool:
    return len(text) > _MAX_INLINE_CHARS or text.count("\n") > _MAX_INLINE_LINES or sanitize(text) != text


@dataclass(frozen=True, slots=True)
class Completion:
    """replacement: the command, path or example that it stands for. Texts are not yet sanitised."""

    label: str
    description: str
    replacement: str


class CompletionList(OptionList, can_focus=False):
    """Hidden while it is empty; the prompt box has the focus and forwards the keys."""

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._completions: Sequence[Completion] = ()
        self.display = False

    def show_completions(self, completions: Sequence[Completion]) -> None:
        """Replace the completions, and highlight the first one."""
        completions = completions[:_MAX_COMPLETIONS]
        if completions == self._completions:
            return
        self._completions = completions
        self.clear_options()
        self.add_options([Option(_format_completion(completion)) for completion in completions])
        self.display = bool(completions)
        self.highlighted = 0 if completions else None

    @property
    def highlighted_completion(self) -> Completion | None:
        return None if self.highlighted is None else self._completions[self.highlighted]


def _format_completion(completion: Completion) -> Text:
    description = (f"  {sanitize_line(completion.description)}", "dim")
    return Text.assemble((sanitize_line(completion.label), "bold"), description, no_wrap=True, overflow="ellipsis")
