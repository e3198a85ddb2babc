"""The code blocks of a Markdown answer."""

from __future__ import annotations


def first_code_block(text: str) -> str | None:
    """The content of the first fenced block, as CommonMark reads it; None when there is none."""
    from markdown_it import MarkdownIt

    return next((token.content for token in MarkdownIt("commonmark").parse(text) if token.type == "fence"), None)
