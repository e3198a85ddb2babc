"""The prompt box: grows with what is typed, remembers what was sent, and keeps a large paste out of sight."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.events import Key, Paste
from textual.message import Message
from textual.widgets import TextArea

from phichat.sanitize import sanitize, sanitize_line

_MAX_INLINE_CHARS = 2_000
_MAX_INLINE_LINES = 20
_CHIP_BRACKETS = re.compile("[⟦⟧]")
_CHIP_PATTERN = re.compile(r"⟦[^⟦⟧]*⟧")


class PromptInput(TextArea):
    """Enter sends; Shift+Enter and Ctrl+J begin a new line; Up and Down at the edges walk the history.

    A paste that is large, or that holds characters which could steer a terminal, stays one chip in the
    text; `value` has it in full, exactly as it was pasted.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+j,shift+enter,alt+enter", "newline", "New line", show=False),
        Binding("pageup", "screen.scroll_page(-1)", "Scroll the conversation up", show=False),
        Binding("pagedown", "screen.scroll_page(1)", "Scroll the conversation down", show=False),
        Binding("ctrl+home", "screen.jump_to_top", "The beginning of the conversation", show=False),
        Binding("ctrl+end", "screen.jump_to_end", "The end of the conversation", show=False),
    ]
    HELP_BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Send"),
        Binding("up", "before", "The prompt sent before, on the first line"),
        Binding("down", "after", "The prompt sent after it, on the last line"),
        Binding("tab", "complete", "Complete a command or a path"),
    ]
    """Those that depend on where the cursor is, for the help; `_on_key` decides."""

    class Submitted(Message):
        """The user has sent a prompt."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class CompletionKey(Message):
        """A key that belongs to the list of completions while one is open."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, soft_wrap=True, show_line_numbers=False, tab_behavior="focus", compact=True)
        self.placeholder = "Ask something; / lists the commands, @ attaches a file"
        self._pastes: dict[str, str] = {}
        self._history: list[str] = []
        self._history_index: int | None = None
        self._unsent_text = ""
        # Textual looks for a binding after the key has bubbled up to the app; what is typed right behind it
        # would by then be in the text, and Ctrl+U would take it along.
        bindings = Binding.make_bindings([*TextArea.BINDINGS, *self.BINDINGS])
        self._action_by_key = {binding.key: binding.action for binding in bindings}
        self.is_completing = False
        """Whether a list of completions is open: Up, Down, Tab and Enter are its keys then."""

    @property
    def full_text(self) -> str:
        """The whole text, pastes in full."""
        return _CHIP_PATTERN.sub(lambda chip: self._pastes.get(chip.group(), chip.group()), self.text)

    @property
    def pastes(self) -> Mapping[str, str]:
        """chip -> pasted text."""
        return {chip: text for chip, text in self._pastes.items() if chip in self.text}

    def set_text(self, text: str, pastes: Mapping[str, str] | None = None) -> None:
        """Replace what is there; the cursor goes to the end."""
        self._pastes = dict(pastes or {})
        if pastes is None and _needs_chip(text):
            text = self._make_chip(text)
        self.text = text
        self.move_cursor(self.document.end)

    def insert_chip(self, name: str, text: str, size_text: str) -> str:
        """Put a text where the cursor is, shown as a chip with its name and a word about its size; the chip."""
        chip = f"⟦{_CHIP_BRACKETS.sub(' ', sanitize_line(name))}: {size_text}⟧"
        self._pastes[chip] = text
        self.insert(chip)
        return chip

    def update_chip(self, chip: str, size_text: str) -> None:
        """Say something else of the size of what is attached, if it still is."""
        if chip not in self.text or chip not in self._pastes:
            return
        row, line = next((row, line) for row, line in enumerate(self.text.split("\n")) if chip in line)
        new_chip = f"{chip.rpartition(': ')[0]}: {size_text}⟧"
        self._pastes[new_chip] = self._pastes.pop(chip)
        column = line.index(chip)
        self.replace(new_chip, (row, column), (row, column + len(chip)), maintain_selection_offset=True)

    def set_history(self, prompts: Sequence[str]) -> None:
        """What Up brings back, the oldest first."""
        self._history = list(prompts)
        self._history_index = None

    def submit_text(self) -> None:
        """Send what is there, unless it is blank."""
        text = self.full_text
        if not text.strip():
            return
        self._history.append(text)
        self._history_index = None
        self.set_text("")
        self.post_message(self.Submitted(text))

    def action_newline(self) -> None:
        """Begin a new line at the cursor."""
        self.insert("\n")

    async def _on_key(self, event: Key) -> None:
        if self.is_completing and event.key in ("up", "down", "tab", "enter", "escape"):
            event.stop()
            event.prevent_default()
            self.post_message(self.CompletionKey(event.key))
            return
        row = self.cursor_location[0]
        match event.key:
            case "enter":
                event.stop()
                event.prevent_default()
                self.submit_text()
            case "up" if row == 0 and self.selection.is_empty and self._history:
                event.stop()
                event.prevent_default()
                self._navigate_history(-1)
            case "down" if row == self.document.line_count - 1 and self._history_index is not None:
                event.stop()
                event.prevent_default()
                self._navigate_history(1)
            case key if key in self._action_by_key:
                event.stop()
                event.prevent_default()
                await self.run_action(self._action_by_key[key])
            case _:
                await super()._on_key(event)

    def _navigate_history(self, step: int) -> None:
        if self._history_index is None:
            self._unsent_text, self._history_index = self.full_text, len(self._history)
        self._history_index = max(0, self._history_index + step)
        if self._history_index >= len(self._history):
            self._history_index = None
            self.set_text(self._unsent_text)
        else:
            self.set_text(self._history[self._history_index])

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
