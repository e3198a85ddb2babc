"""Renders the Markdown of an answer as HTML with a fixed set of elements and attributes.

HTML in the answer is text. Links lead to http, https and mailto only; images are links; code is
highlighted unless it is too long; text that is too long to parse (a megabyte in one line) is shown literally.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape as attribute
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from phichat.sanitize import escape
from phichat.transcript.export.markdown_safety import is_parseable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_MAX_HIGHLIGHTED_CHARS = 50_000
"""Of one block. A lexer is made of regular expressions, and not all of them are linear."""

_TOKEN_CLASSES = {
    **{"Comment": "c", "Keyword": "k", "Operator.Word": "k", "Name.Tag": "k", "Generic.Deleted": "k"},
    **{"Literal.String": "s", "Generic.Inserted": "s", "Literal.Number": "n", "Name.Function": "f", "Name.Class": "f"},
    **{"Name.Builtin": "b", "Name.Decorator": "d", "Name.Attribute": "d"},
}
"""The CSS class of a token type of Pygments, and of its subtypes."""


COPY_BUTTON = '<button type="button" class="copy">Copy</button>'


def render_plain(text: str) -> str:
    """Return a text literally, control characters replaced by their names (`phichat.sanitize.escape`)."""
    return f'<div class="plain">{attribute(_escape_text(text))}</div>'


def render_markdown(text: str) -> str:
    """Return Markdown as HTML."""
    return str(_make_parser().render(_escape_text(text))) if is_parseable(text) else f"{render_plain(text)}\n"


def _escape_text(text: str) -> str:
    return escape(text.replace("\r\n", "\n"))


@cache
def _make_parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.validateLink = _is_allowed_link  # type: ignore[method-assign]
    rules: dict[str, Any] = parser.renderer.rules  # type: ignore[attr-defined]
    rules |= {"fence": _render_fence, "code_block": _render_fence, "image": _render_image, "link_open": _render_link}
    rules |= {"th_open": _render_cell, "td_open": _render_cell}
    return parser


def _is_allowed_link(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme in ("http", "https", "mailto")
    except ValueError:
        return False


_LINK_TAG = '<a href="{}" rel="noopener noreferrer nofollow" target="_blank">'


def _render_link(tokens: Sequence[Token], index: int, *_: object) -> str:
    return _LINK_TAG.format(attribute(str(tokens[index].attrGet("href") or "")))


def _render_image(tokens: Sequence[Token], index: int, *_: object) -> str:
    # Loading the image would reveal the reader to its server.
    address = attribute(str(tokens[index].attrGet("src") or ""))
    return f"{_LINK_TAG.format(address)}{attribute(tokens[index].content) or address}</a>"


def _render_cell(tokens: Sequence[Token], index: int, *_: object) -> str:
    # markdown-it aligns with a style attribute, which the page's policy forbids.
    side = str(tokens[index].attrGet("style") or "").removeprefix("text-align:")
    return f'<{tokens[index].tag} class="{side}">' if side in ("left", "right", "center") else f"<{tokens[index].tag}>"


def _render_fence(tokens: Sequence[Token], index: int, *_: object) -> str:
    language = (tokens[index].info.split() or [""])[0]
    label = f'<span class="language">{attribute(language)}</span>' if language else ""
    return (
        f'<figure class="code">{label}{COPY_BUTTON}'
        f'<pre tabindex="0"><code>{_highlight_code(tokens[index].content, language)}</code></pre></figure>\n'
    )


def _highlight_code(code: str, language: str) -> str:
    if not language or len(code) > _MAX_HIGHLIGHTED_CHARS:
        return attribute(code)
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return attribute(code)
    pieces = [(_token_class(str(kind)), attribute(value)) for kind, value in lexer.get_tokens(code)]
    if "".join(value for _, value in pieces) != attribute(code):
        # Some lexers change the code; it matters more than its colours.
        return attribute(code)
    return "".join(f'<span class="{name}">{value}</span>' if name else value for name, value in pieces)


@cache
def _token_class(kind: str) -> str:
    name = kind.removeprefix("Token.")
    return next((short for prefix, short in _TOKEN_CLASSES.items() if name.startswith(prefix)), "")
