"""Small dialogs: yes or no, one line of text, one of a list, a text to read."""

from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from rich.console import RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widget import Widget
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from phichat.sanitize import sanitize, sanitize_line

Answer = TypeVar("Answer")


class Dialog(ModalScreen[Answer | None], Generic[Answer]):
    """A box with a title over widgets; the result is None if the user cancels it. The title is sanitised here."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss(None)", "Cancel")]

    def __init__(self, title: str, *body: Widget, is_wide: bool = False) -> None:
        super().__init__()
        self._dialog_title, self._body, self._is_wide = title, body, is_wide

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog wide" if self._is_wide else "dialog"):
            yield Static(Text(sanitize(self._dialog_title), "bold" if self._is_wide else ""), markup=False)
            yield from self._body


class ConfirmDialog(Dialog[bool]):
    """Ask yes or no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "dismiss(True)", "Yes"),
        Binding("n,escape", "dismiss(None)", "No"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__(question, Static(Text("[y] Yes   [n] No", "dim"), markup=False))


class InputDialog(Dialog[str]):
    """Ask for one line of text."""

    def __init__(self, label: str, initial_value: str = "") -> None:
        super().__init__(label, Input(sanitize_line(initial_value)))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value)


class SelectDialog(Dialog[Answer]):
    """Ask for one of several values. options: pairs of a label and its value."""

    def __init__(self, title: str, options: Sequence[tuple[str, Answer]]) -> None:
        labels = (Text(sanitize_line(label), no_wrap=True, overflow="ellipsis") for label, _ in options)
        super().__init__(title, OptionList(*map(Option, labels), markup=False))
        self._select_options = options

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._select_options[event.option_index][1])


class TextDialog(Dialog[None]):
    """Show a text to read: help, the context, statistics. A string is sanitised here."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,f1", "dismiss(None)", "Close")]

    def __init__(self, title: str, content: RenderableType) -> None:
        text = Text(sanitize(content)) if isinstance(content, str) else content
        super().__init__(title, VerticalScroll(Static(text, markup=False)), is_wide=True)
