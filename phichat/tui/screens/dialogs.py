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

from phichat.terminal import clean, clean_line

Value = TypeVar("Value")

_CANCEL: list[BindingType] = [Binding("escape", "cancel", "Cancel")]


@dataclass(frozen=True, slots=True)
class Choice(Generic[Value]):
    """One of several. label, about: not yet sanitised."""

    label: str
    value: Value
    about: str = ""


class Ask(ModalScreen[bool]):
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
            yield Static(Text(clean(self._question)), markup=False)
            yield Static(Text("y yes   n no", "dim"), markup=False)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class AskLine(ModalScreen[str | None]):
    """One line of text; None when it was cancelled."""

    BINDINGS = _CANCEL

    def __init__(self, question: str, value: str = "") -> None:
        super().__init__()
        self._question, self._value = question, value

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(clean_line(self._question)), markup=False)
            yield Input(clean_line(self._value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)

    def action_cancel(self) -> None:
        self.dismiss(None)


class Choose(ModalScreen[Value | None], Generic[Value]):
    """One of a list; None when it was cancelled."""

    BINDINGS = _CANCEL

    def __init__(self, question: str, choices: Sequence[Choice[Value]]) -> None:
        super().__init__()
        self._question, self._choices = question, choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Text(clean_line(self._question)), markup=False)
            yield OptionList(*(Option(_line(choice)) for choice in self._choices), markup=False)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[event.option_index].value)

    def action_cancel(self) -> None:
        self.dismiss(None)


class Read(ModalScreen[None]):
    """A text to read: help, the context, statistics. text: a string is sanitised here."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,f1", "dismiss", "Close")]

    def __init__(self, title: str, text: RenderableType) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        from textual.containers import VerticalScroll

        shown = Text(clean(self._text)) if isinstance(self._text, str) else self._text
        with Vertical(classes="dialog wide"):
            yield Static(Text(clean_line(self._title), "bold"), markup=False)
            with VerticalScroll():
                yield Static(shown, markup=False)


def _line(choice: Choice[Value]) -> Text:
    text = Text(clean_line(choice.label), no_wrap=True, overflow="ellipsis")
    if choice.about:
        text.append(f"  {clean_line(choice.about)}", "dim")
    return text
