"""Writes one self-contained HTML page that uses no network and holds the content only as text.

Its Content-Security-Policy allows the page's own style and script, both by their hash, and nothing else.
Every text is also in it unchanged, for the copy buttons and for programs: the element with the id "source"
holds JSON, `{"conversations": [{"id", "title", "messages": [{"role", "text"}]}]}`, in the order of the
`<section class="message">` elements; a role is system, user, reasoning or assistant.
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence
from html import escape as attribute
from importlib.resources import files

from phichat.sanitize import sanitize_line, to_json
from phichat.transcript.export import metadata
from phichat.transcript.export.markdown_html import COPY_BUTTON, render_markdown, render_plain
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import Part, TextPart

_FOLD_ABOVE_CHARS = 4_000
"""A longer prompt or system prompt is folded."""


def write_html(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """Yield the page in pieces."""
    style, script = _read_asset("page.css"), _read_asset("page.js")
    sources = f"style-src {_csp_hash(style)}; script-src {_csp_hash(script)}"
    policy = f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"
    titles = [attribute(metadata.conversation_title(conversation)) for conversation in conversations]
    title = titles[0] if len(titles) == 1 else f"{len(titles)} conversations"
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
    )
    numbered = list(zip(range(1, len(titles) + 1), titles, conversations, strict=True))
    if len(conversations) != 1:
        yield f"<h1>{title}</h1>\n<nav><ol>\n"
        for index, heading, conversation in numbered:
            time = metadata.format_minute(conversation.created_at)
            yield f'<li><a href="#c{index}" dir="auto">{heading}</a> <span class="facts">{time}</span></li>\n'
        yield "</ol></nav>\n"
    for index, heading, conversation in numbered:
        yield f'<article id="c{index}">\n<header><h1 dir="auto">{heading}</h1>\n'
        yield f'<p class="facts">{attribute(_metadata_line(conversation))}</p></header>\n'
        yield from _render_turns(conversation)
        yield "</article>\n"
    yield '</main>\n<script type="application/json" id="source">'
    yield from _source_json(conversations)
    yield f"</script>\n<script>{script}</script>\n</body>\n</html>\n"


def _read_asset(name: str) -> str:
    return (files("phichat.transcript.export") / name).read_text("utf-8")


def _csp_hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def _metadata_line(conversation: ConversationRecord) -> str:
    parts = [metadata.format_minute(conversation.created_at), sanitize_line(conversation.id)]
    for model in metadata.answering_models(conversation.get_branch()):
        sha256 = f" (sha256 {sanitize_line(model.sha256)[:16]})" if model.sha256 else ""
        parts.append(sanitize_line(model.name) + sha256)
    return " · ".join(parts)


def _iter_messages(conversation: ConversationRecord) -> Iterator[tuple[str, str, TurnRecord]]:
    """Yield role, text and turn of the messages on the page, in their order."""
    for system, turn in metadata.iter_turns(conversation.get_branch()):
        if system:
            yield "system", system, turn
        yield "user", turn.prompt, turn
        if turn.reasoning:
            yield "reasoning", turn.reasoning, turn
        yield "assistant", turn.text, turn


def _render_turns(conversation: ConversationRecord) -> Iterator[str]:
    if hidden := metadata.hidden_turns_note(conversation):
        yield f'<p class="remark">{attribute(hidden)}</p>\n'
    for role, text, turn in _iter_messages(conversation):
        match role:
            case "assistant":
                name, body = metadata.answering_model_name(turn), render_markdown(text)
            case "reasoning":
                name, body = "Reasoning", _fold("Show all", text)
            case "system":
                name, body = "System", _fold_long(text)
            case _:
                name, body = "You", "".join(map(_render_prompt_part, turn.parts))
        yield f'<section class="message {role}">\n<h2>{attribute(name)}</h2>{COPY_BUTTON}\n'
        yield f'<div class="body" dir="auto">{body}</div>\n'
        if role == "assistant":
            yield from _render_footer(turn)
        yield "</section>\n"


def _render_prompt_part(part: Part) -> str:
    return _fold_long(part.text) if isinstance(part, TextPart) else _fold(metadata.attachment_label(part), part.text)


def _fold_long(text: str) -> str:
    is_short = len(text) <= _FOLD_ABOVE_CHARS
    return render_plain(text) if is_short else _fold(f"Show all of {len(text):,} characters", text)


def _fold(summary: str, text: str) -> str:
    return f"<details><summary>{attribute(summary)}</summary>{render_plain(text)}</details>"


def _render_footer(turn: TurnRecord) -> Iterator[str]:
    for note in metadata.incompleteness_notes(turn):
        yield f'<p class="remark">{attribute(note)}</p>\n'
    for warning in metadata.code_warnings(turn):
        yield f'<p class="warning">{attribute(warning)}</p>\n'
    yield f'<p class="facts">{attribute(metadata.format_details(turn))}</p>\n'


def _source_json(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    yield '{"conversations": ['
    for index, conversation in enumerate(conversations):
        document = {
            "id": conversation.id,
            "title": metadata.conversation_title(conversation),
            "messages": [{"role": role, "text": text} for role, text, _ in _iter_messages(conversation)],
        }
        # No "<" can end the element, or begin a comment in it.
        yield (",\n" if index else "\n") + to_json(document).replace("<", "\\u003c")
    yield "\n]}"
