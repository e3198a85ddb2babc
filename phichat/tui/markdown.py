"""Markdown of a model as styled lines. Raw HTML is text here, links show their target, nothing is left out."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cache
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, ImageItem, Markdown, MarkdownElement
from rich.text import Text


@cache
def parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough, and without HTML: what looks like a tag is shown."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class _Heading(Heading):
    """At the left, where it is read; Rich centres it and draws a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _Image(ImageItem):
    """An image is not fetched: its description and where it would come from."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.assemble("[image: ", self.text, f" {self.destination}]", end="")


class _Markdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "image": _Image,
    }


@cache
def _empty(code_theme: str) -> _Markdown:
    # Rich makes a parser of its own each time, which takes as long as the parsing.
    return _Markdown("", code_theme=code_theme, hyperlinks=False)


def markdown_text(source: str, code_theme: str) -> Markdown:
    """Sanitised Markdown source, for a Rich console."""
    text = copy(_empty(code_theme))
    text.markup = source
    text.parsed = parser().parse(source)
    return text


def console(styles: Mapping[str, str]) -> Console:
    """A console that only renders: it writes nowhere."""
    from io import StringIO

    from rich.theme import Theme

    return Console(file=StringIO(), force_terminal=True, color_system="truecolor", theme=Theme(dict(styles)))
