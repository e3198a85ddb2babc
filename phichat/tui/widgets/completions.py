"""The list above the prompt: commands and files that what is typed may become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from phichat.terminal import clean_line

SHOWN = 8


@dataclass(frozen=True, slots=True)
class Completion:
    """label: what is shown, not yet sanitised; becomes: the whole text of the prompt when it is chosen."""

    label: str
    about: str
    becomes: str


class Completions(OptionList, can_focus=False):
    """Hidden while there is nothing to offer; the keys come from the prompt."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id, markup=False)
        self._offers: Sequence[Completion] = ()

    def on_mount(self) -> None:
        self.display = False

    def offer(self, offers: Sequence[Completion]) -> None:
        """Show these, the first one highlighted."""
        offers = offers[:50]
        if offers == self._offers:
            return
        self._offers = offers
        self.clear_options()
        self.add_options([Option(_line(offer)) for offer in offers])
        self.display = bool(offers)
        self.highlighted = 0 if offers else None

    @property
    def chosen(self) -> Completion | None:
        """The highlighted one."""
        at = self.highlighted
        return self._offers[at] if at is not None and at < len(self._offers) else None


def _line(offer: Completion) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(clean_line(offer.label), "bold")
    text.append(f"  {clean_line(offer.about)}", "dim")
    return text
