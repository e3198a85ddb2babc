"""Small questions: yes or no, one line of text, one of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from rich.console import RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from phichat.sanitize import sanitize, sanitize_line

OptionValue = TypeVar("OptionValue")

_CANCEL_BINDINGS: list[BindingType] = [Binding("escape", "cancel", "Cancel")]


@dataclass(frozen=True, slots=True)
class SelectOption(Generic[OptionValue]):
    """One of several. label, about: not yet sanitised."""

    label: str
    value: OptionValue
    description: str = ""


class ConfirmDialog(ModalScreen[bool]):
    """Yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", "Yes"),
        Binding("n,escape", "answer(False)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(sanitize(self._question)), markup=False)
            yield Static(Text("y yes   n no", "dim"), markup=False)

    def action_answer(self, confirmed: bool) -> None:
        self.dismiss(confirmed)


class InputDialog(ModalScreen[str | None]):
    """One line of text; None when it was cancelled."""

    BINDINGS = _CANCEL_BINDINGS

    def __init__(self, label: str, initial_value: str = "") -> None:
        super().__init__()
        self._label, self._initial_value = label, initial_value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(sanitize_line(self._label)), markup=False)
            yield Input(sanitize_line(self._initial_value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)

    def action_cancel(self) -> None:
        self.dismiss(None)


class SelectDialog(ModalScreen[OptionValue | None], Generic[OptionValue]):
    """One of a list; None when it was cancelled."""

    BINDINGS = _CANCEL_BINDINGS

    def __init__(self, title: str, options: Sequence[SelectOption[OptionValue]]) -> None:
        super().__init__()
        self._dialog_title, self._select_options = title, options

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(sanitize_line(self._dialog_title)), markup=False)
            yield OptionList(*(Option(_format_option(choice)) for choice in self._select_options), markup=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._select_options[event.option_index].value)

    def action_cancel(self) -> None:
        self.dismiss(None)


class TextDialog(ModalScreen[None]):
    """A text to read: help, the context, statistics. text: a string is sanitised here."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,f1", "dismiss", "Close")]

    def __init__(self, title: str, content: RenderableType) -> None:
        super().__init__()
        self._dialog_title, self._content = title, content

    def compose(self) -> ComposeResult:
        from textual.containers import VerticalScroll

        content = Text(sanitize(self._content)) if isinstance(self._content, str) else self._content
        with Vertical(classes="dialog wide"):
            yield Static(Text(sanitize_line(self._dialog_title), "bold"), markup=False)
            with VerticalScroll():
                yield Static(content, markup=False)


def _format_option(option: SelectOption[OptionValue]) -> Text:
    text = Text(sanitize_line(option.label), no_wrap=True, overflow="ellipsis")
    if option.description:
        text.append(f"  {sanitize_line(option.description)}", "dim")
    return text
