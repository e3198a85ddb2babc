"""An answer's Markdown as HTML that holds only elements and attributes of ours.

HTML in the answer is text. Links lead to http, https and mailto only; images are links; code is
highlighted as long as that is quick; what is no reasonable Markdown (a megabyte in one line) is shown as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from html import escape as attribute
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from phichat.terminal import escape
from phichat.transcript.export.contained import reasonable

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

_MOST_HIGHLIGHTED = 50_000
"""Characters of one block. A lexer is made of regular expressions, and not all of them are linear."""

_CLASSES = (
    ("Comment", "c"),
    ("Keyword", "k"),
    ("Literal.String", "s"),
    ("Literal.Number", "n"),
    ("Name.Function", "f"),
    ("Name.Class", "f"),
    ("Name.Builtin", "b"),
    ("Name.Decorator", "d"),
    ("Name.Tag", "k"),
    ("Name.Attribute", "d"),
    ("Operator.Word", "k"),
    ("Generic.Deleted", "k"),
    ("Generic.Inserted", "s"),
)


def text_html(text: str) -> str:
    """A text as it is; what is unsafe to show is named (`phichat.terminal.escape`)."""
    return attribute(_shown(text))


def _shown(text: str) -> str:
    return escape(text.replace("\r\n", "\n"))


def markdown_html(text: str) -> str:
    """Markdown as HTML."""
    if not reasonable(text):
        return f'<div class="plain">{text_html(text)}</div>\n'
    rendered: str = _parser().render(_shown(text))
    return rendered


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.validateLink = _leads_outside  # type: ignore[method-assign]
    rules: dict[str, Any] = parser.renderer.rules  # type: ignore[attr-defined]
    rules |= {"fence": _fence, "code_block": _fence, "image": _image, "link_open": _link_open}
    rules |= {"th_open": _cell, "td_open": _cell}
    return parser


def _leads_outside(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme in ("http", "https", "mailto")
    except ValueError:
        return False


_LINK = '<a href="{}" rel="noopener noreferrer nofollow" target="_blank">'


def _link_open(tokens: Sequence[Token], at: int, *_: object) -> str:
    return _LINK.format(attribute(str(tokens[at].attrGet("href") or "")))


def _image(tokens: Sequence[Token], at: int, *_: object) -> str:
    # Loading it would tell its server who reads this.
    address = attribute(str(tokens[at].attrGet("src") or ""))
    return f"{_LINK.format(address)}{attribute(tokens[at].content) or address}</a>"


def _cell(tokens: Sequence[Token], at: int, *_: object) -> str:
    # markdown-it aligns with a style attribute, which the page's policy forbids.
    style = str(tokens[at].attrGet("style") or "")
    side = style.removeprefix("text-align:")
    return f'<{tokens[at].tag} class="{side}">' if side in ("left", "right", "center") else f"<{tokens[at].tag}>"


def _fence(tokens: Sequence[Token], at: int, *_: object) -> str:
    language = (tokens[at].info.split() or [""])[0]
    label = f'<span class="language">{attribute(language)}</span>' if language else ""
    return (
        f'<figure class="code">{label}<button type="button" class="copy">Copy</button>'
        f'<pre tabindex="0"><code>{_highlighted(tokens[at].content, language)}</code></pre></figure>\n'
    )


def _highlighted(code: str, language: str) -> str:
    if not language or len(code) > _MOST_HIGHLIGHTED:
        return attribute(code)
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return attribute(code)
    pieces = [(_class(str(kind)), value) for kind, value in lexer.get_tokens(code)]
    if "".join(value for _, value in pieces) != code:
        # Some lexers tidy up; the code counts more than its colours.
        return attribute(code)
    return "".join(
        f'<span class="{name}">{attribute(value)}</span>' if name else attribute(value) for name, value in pieces
    )


@cache
def _class(kind: str) -> str:
    name = kind.removeprefix("Token.")
    return next((short for prefix, short in _CLASSES if name.startswith(prefix)), "")
