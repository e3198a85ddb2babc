"""Markdown of a model for Rich: raw HTML is shown as text, links show their target, images are not fetched."""

from copy import copy
from functools import cache
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Heading, ImageItem, Markdown
from rich.text import Text


@cache
def get_parser() -> MarkdownIt:
    """Return a parser of CommonMark with tables and strikethrough; HTML tags are text."""
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


class _LeftHeading(Heading):
    """A heading at the left; Rich centres it and draws a box."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self.text.justify = "left"
        yield self.text


class _ImagePlaceholder(ImageItem):
    """The description and address of an image, which is not fetched."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text.assemble("[image: ", self.text, f" {self.destination}]", end="")


class _ChatMarkdown(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": _LeftHeading, "image": _ImagePlaceholder}


@cache
def _empty_markdown(code_theme: str) -> _ChatMarkdown:
    # Rich creates a parser for each text, which takes as long as parsing it.
    return _ChatMarkdown("", code_theme=code_theme, hyperlinks=False)


def parse_markdown(source: str, code_theme: str) -> Markdown:
    """Parse sanitised Markdown for a Rich console."""
    markdown = copy(_empty_markdown(code_theme))
    markdown.markup = source
    markdown.parsed = get_parser().parse(source)
    return markdown
