"""One self-contained HTML page: no network, and nothing of the content but text.

The page's policy allows its own style and its own script, both by their hash, and nothing else. Every
text is also in it exactly, for the copy buttons and for programs: the element with the id "source"
holds JSON, `{"conversations": [{"id", "title", "messages": [{"role", "text"}]}]}`, in the order of the
`<section class="message">` elements; a role is system, user, reasoning or assistant.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape as attribute
from importlib.resources import files

from phichat.terminal import clean_line, to_json
from phichat.transcript.export import facts
from phichat.transcript.export.rendering import markdown_html, text_html
from phichat.transcript.records import ConversationRecord, TurnRecord

_LONG = 4_000
"""Characters: a longer prompt is folded, most of it is an attached file."""


def write(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """The page in pieces."""
    style, script = _asset("page.css"), _asset("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    title = facts.title(conversations[0]) if len(conversations) == 1 else f"{len(conversations)} conversations"
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{attribute(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
    )
    if len(conversations) != 1:
        yield f"<h1>{attribute(title)}</h1>\n<nav><ol>\n"
        for number, conversation in enumerate(conversations, 1):
            yield (
                f'<li><a href="#c{number}" dir="auto">{attribute(facts.title(conversation))}</a> '
                f'<span class="facts">{facts.when(conversation.created_at)}</span></li>\n'
            )
        yield "</ol></nav>\n"
    for number, conversation in enumerate(conversations, 1):
        yield f'<article id="c{number}">\n<header><h1 dir="auto">{attribute(facts.title(conversation))}</h1>\n'
        yield f'<p class="facts">{attribute(_about(conversation))}</p></header>\n'
        yield from _turns(conversation)
        yield "</article>\n"
    yield '</main>\n<script type="application/json" id="source">'
    yield from _source(conversations)
    yield f"</script>\n<script>{script}</script>\n</body>\n</html>\n"


def _asset(name: str) -> str:
    return (files("phichat.transcript.export") / name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _about(conversation: ConversationRecord) -> str:
    said = [facts.when(conversation.created_at), clean_line(conversation.id)]
    for model in facts.models(conversation.branch()):
        said.append(clean_line(model.name) + (f" (sha256 {clean_line(model.sha256)[:16]})" if model.sha256 else ""))
    return " · ".join(said)


def _messages(conversation: ConversationRecord) -> Iterator[tuple[str, str, TurnRecord]]:
    """Role, text and turn of what the page shows, in its order."""
    system: str | None = None
    for turn in conversation.branch():
        if turn.system and turn.system != system:
            yield "system", turn.system, turn
        system = turn.system
        yield "user", turn.prompt, turn
        if turn.reasoning:
            yield "reasoning", turn.reasoning, turn
        yield "assistant", turn.text, turn


def _turns(conversation: ConversationRecord) -> Iterator[str]:
    if hidden := facts.others(conversation):
        yield f'<p class="remark">{attribute(hidden)}</p>\n'
    for role, text, turn in _messages(conversation):
        copy = '<button type="button" class="copy">Copy</button>'
        match role:
            case "assistant":
                name, body = facts.model_name(turn), markdown_html(text)
            case "reasoning":
                name, body = "Reasoning", f'<div class="plain">{text_html(text)}</div>'
            case "system":
                name, body = "System", f'<div class="plain">{text_html(text)}</div>'
            case _:
                name, body = "You", f'<div class="plain">{text_html(text)}</div>'
        if role == "reasoning" or (role != "assistant" and len(text) > _LONG):
            size = "" if role == "reasoning" else f" of {len(text):,} characters"
            body = f"<details><summary>Show all{size}</summary>{body}</details>"
        yield f'<section class="message {role}">\n<h2>{attribute(name)}</h2>{copy}\n'
        yield f'<div class="body" dir="auto">{body}</div>\n'
        if role == "assistant":
            yield from _after(turn)
        yield "</section>\n"


def _after(turn: TurnRecord) -> Iterator[str]:
    for remark in facts.remarks(turn):
        yield f'<p class="remark">{attribute(remark)}</p>\n'
    for warning in facts.warnings(turn):
        yield f'<p class="warning">{attribute(warning)}</p>\n'
    said = ", ".join(filter(None, [facts.when(turn.created_at), facts.generation(turn)]))
    yield f'<p class="facts">{attribute(said)}</p>\n'


def _source(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    yield '{"conversations": ['
    for at, conversation in enumerate(conversations):
        document = {
            "id": conversation.id,
            "title": facts.title(conversation),
            "messages": [{"role": role, "text": text} for role, text, _ in _messages(conversation)],
        }
        # No "<" can end the element, or begin a comment in it.
        yield (",\n" if at else "\n") + to_json(document).replace("<", "\\u003c")
    yield "\n]}"
