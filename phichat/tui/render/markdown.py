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
def get_parser() -> MarkdownIt:
    """CommonMark with tables and strikethrough, and without HTML: what looks like a tag is shown."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class _LeftHeading(Heading):
    """At the left, where it is read; Rich centres it and draws a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _ImagePlaceholder(ImageItem):
    """An image is not fetched: its description and where it would come from."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.assemble("[image: ", self.text, f" {self.destination}]", end="")


class _ChatMarkdown(Markdown):
    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _LeftHeading,
        "image": _ImagePlaceholder,
    }


@cache
def _empty_markdown(code_theme: str) -> _ChatMarkdown:
    # Rich makes a parser of its own each time, which takes as long as the parsing.
    return _ChatMarkdown("", code_theme=code_theme, hyperlinks=False)


def parse_markdown(source: str, code_theme: str) -> Markdown:
    """Sanitised Markdown source, for a Rich console."""
    markdown = copy(_empty_markdown(code_theme))
    markdown.markup = source
    markdown.parsed = get_parser().parse(source)
    return markdown


def make_console(styles: Mapping[str, str]) -> Console:
    """A console that only renders: it writes nowhere."""
    from io import StringIO

    from rich.theme import Theme

    return Console(file=StringIO(), force_terminal=True, color_system="truecolor", theme=Theme(dict(styles)))
