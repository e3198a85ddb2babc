"""The list of completions above the prompt box: commands, files and examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from phichat.sanitize import sanitize_line

_MAX_COMPLETIONS = 50


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

    def on_mount(self) -> None:
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
