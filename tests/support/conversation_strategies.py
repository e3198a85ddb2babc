"""Conversations made by hypothesis, and readers of the exported forms that know only what their modules document."""

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

from hypothesis import strategies as st
from markdown_it import MarkdownIt

from phichat.code_report import CodeReport
from phichat.sanitize import unescape
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import FinishReason, ModelInfo, SamplingParams, Timings, Usage

NASTY = (
    "```",
    "````",
    "```python\nprint('<b>')\n```",
    "~~~",
    "~~~~\n",
    "    code",
    "\t",
    "\n",
    "\n\n",
    " ",
    "> ",
    "- ",
    "1. ",
    "# ",
    "## Answer 1",
    "---",
    "===",
    "***",
    "<!--",
    "-->",
    "<script>alert(1)</script>",
    "<details>",
    "</details>",
    "<div>",
    "</blockquote>",
    "<b",
    "<?php",
    "<![CDATA[",
    "<style>*{display:none}</style>",
    "<textarea>",
    "<plaintext>",
    "</script>",
    "</main>",
    "<svg onload=alert(1)>",
    "<img src=x onerror=alert(1)>",
    "<!-- phichat:answer markdown -->",
    "<!-- /phichat:answer -->",
    "<!-- /phichat:prompt -->",
    "[a](javascript:alert(1))",
    "![i](http://x/y.png)",
    "[l](https://example.com)",
    "<https://example.com>",
    "[r]: http://x 'y'",
    "[r]",
    "&lt;",
    "&#0;",
    "&amp;",
    "\\",
    "\\<b>",
    "\\\\<i>",
    "`",
    "``",
    "`<u>`",
    "|a|b|\n|-|:-:|\n|`|<i>|\n",
    "$x$",
    ":smile:",
    "@me",
    "\x00",
    "\x1b[31m",
    "\x07",
    "\r",
    "\r\n",
    "\x7f",
    "\x85",
    "\x9b",
    "\u202e",
    "\u2066",
    "\u200b",
    "\u2028",
    "\ufeff",
    "\ufffe",
    "\uffff",
    "\u200d",
    "👩‍👩‍👧‍👦",
    "🇩🇪",
    "مرحبا",
    "שלום",
    "日本",
    "\ud800",
    "\udfff",
    "\u27e6U+001B\u27e7",
    "\u27e6",
    "{{x}}",
    "%s",
    '"',
    "'",
    "a word",
    "x" * 300,
    "__init__",
    "*args",
    "__",
    "**",
    "~~",
    "\U000e0041",
    "---\ntitle: x\n---",
)


def _whole(text: str) -> str:
    """Two halves of a character side by side are that character: no decoder gives them as two."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


texts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=20)), max_size=14).map(
    lambda parts: _whole("".join(parts))
)
times = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
counts = st.integers(0, 2**40)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
models = st.builds(ModelInfo, names, sha256=texts, size=counts, devices=st.lists(texts, max_size=2).map(tuple))
turns = st.builds(
    TurnRecord,
    id=st.just(""),
    parent=st.none(),
    created_at=times,
    prompt=texts,
    text=texts,
    reasoning=st.one_of(st.just(""), texts),
    system=st.one_of(st.none(), texts),
    finished_at=st.one_of(st.none(), times),
    finish_reason=st.one_of(st.none(), st.sampled_from(FinishReason)),
    error=texts,
    model=st.one_of(st.none(), models),
    params=st.one_of(st.none(), st.builds(SamplingParams, stop=st.lists(texts, max_size=2).map(tuple))),
    seed=st.one_of(st.none(), counts),
    usage=st.one_of(st.none(), st.builds(Usage, counts, counts, counts)),
    timings=st.one_of(st.none(), st.builds(Timings, load_s=st.floats(0, 1e6))),
    dropped_turns=st.integers(0, 3),
    code=st.one_of(st.none(), st.builds(CodeReport, warnings=st.lists(texts, max_size=2).map(tuple))),
)


@st.composite
def conversations(draw: st.DrawFn) -> ConversationRecord:
    """A tree of turns, its head anywhere."""
    from dataclasses import replace

    made: list[TurnRecord] = []
    for number, turn in enumerate(draw(st.lists(turns, max_size=4))):
        parent = draw(st.sampled_from([None, *(one.id for one in made)])) if made else None
        made.append(replace(turn, id=f"t{number}", parent=parent))
    head = draw(st.sampled_from([turn.id for turn in made])) if made else None
    begun = draw(times)
    number = draw(st.integers(0, 2**32))
    return ConversationRecord(
        f"c{number}", draw(texts), begun, begun + timedelta(seconds=1), tuple(made), head, draw(names)
    )


def shown(conversation: ConversationRecord) -> list[tuple[str, str]]:
    """Role and text of what the readable forms show."""
    said: list[tuple[str, str]] = []
    system: str | None = None
    for turn in conversation.get_branch():
        if turn.system and turn.system != system:
            said.append(("system", turn.system))
        system = turn.system
        said.append(("user", turn.prompt))
        if turn.reasoning:
            said.append(("reasoning", turn.reasoning))
        said.append(("assistant", turn.text))
    return said


_ROLES = {"system": "system", "prompt": "user", "reasoning": "reasoning", "answer": "assistant"}


def read_markdown(document: str) -> list[tuple[str, str]]:
    """The texts by the rules at the head of `export/markdown.py`, with a CommonMark parser that takes HTML."""
    lines = document.split("\n")
    parser = MarkdownIt("commonmark").enable("table")
    found: list[tuple[str, str]] = []
    tokens = parser.parse(
        re.sub(r"\A---\n.*?^---\n", lambda match: "\n" * match[0].count("\n"), document, flags=re.S | re.M)
    )
    opened: tuple[str, list[str], int, int] | None = None
    for at, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h1" and not token.level:
            assert opened is None, "a heading of the document's own"
        if token.type != "html_block" or token.level:
            assert opened or token.type != "html_block"
            continue
        if begun := re.fullmatch(r"<!-- phichat:(\w+) (.*) -->\n", token.content):
            assert opened is None
            opened = begun[1], begun[2].split(), at, token.map[1]  # type: ignore[index]
        elif opened and token.content == f"<!-- /phichat:{opened[0]} -->\n":
            kind, form, first, line = opened
            opened = None
            within = tokens[first + 1 : at]
            match form[0]:
                case "fence":
                    [fence] = within
                    text = fence.content[:-1]
                case "quote":
                    assert [one.type for one in within][:2] == ["blockquote_open", "paragraph_open"]
                    [inline] = [one for one in within if one.type == "inline"]
                    assert {one.type for one in inline.children or ()} <= {"text", "text_special"}
                    text = "".join(one.content for one in inline.children or ())
                case _:
                    text = "\n".join(lines[line + 1 : token.map[0] - 1])  # type: ignore[index]
                    options = dict(option.split("=") for option in form[1:] if "=" in option)
                    text = text[: len(text) - int(options.get("close", 0))]
                    for offset in reversed([int(n) for n in options.get("insert", "").split(",") if n]):
                        assert text[offset] in "\\#"
                        text = text[:offset] + text[offset + 1 :]
            text = text.replace("\n", "\r\n") if "crlf" in form else text
            found.append((_ROLES[kind], unescape(text)))
        else:
            assert token.content in ("<details><summary>Reasoning</summary>\n", "</details>\n")
    assert opened is None
    return found


class Page(HTMLParser):
    """What a parser of HTML finds in an exported page."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: set[tuple[str, tuple[str, ...]]] = set()
        self.addresses: set[str] = set()
        self.open: list[str] = []
        self.deepest_error = ""
        self.sections: list[str] = []
        self._source: list[str] = []
        self._in_source = False
        self._depth: int | None = None
        self.feed(document)
        self.close()
        self.source: dict[str, Any] = json.loads("".join(self._source))

    VOID = ("meta", "br", "hr")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.elements.add((tag, tuple(sorted(values))))
        self.addresses.update(filter(None, [values.get("href"), values.get("src")]))
        self._in_source = values.get("id") == "source"
        if tag not in self.VOID:
            self.open.append(tag)
        if values.get("class") == "plain":
            self.sections.append("")
            self._depth = len(self.open)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.deepest_error = self.deepest_error or tag
        self._in_source = False
        if self._depth is not None and len(self.open) < self._depth:
            self._depth = None

    def handle_data(self, data: str) -> None:
        if self._in_source:
            self._source.append(data)
        elif self._depth is not None:
            self.sections[-1] += data

    def texts(self) -> list[tuple[str, str]]:
        """Role and text of every message of the page's source."""
        return [
            (message["role"], message["text"])
            for conversation in self.source["conversations"]
            for message in conversation["messages"]
        ]
