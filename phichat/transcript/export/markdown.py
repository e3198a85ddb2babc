"""Writes Markdown that renders on GitHub and that no content can break.

Every text is between two top-level HTML comments, `<!-- phichat:KIND FORM -->` and
`<!-- /phichat:KIND -->`, KIND one of system, prompt, file, reasoning, answer. A CommonMark parser finds them
as its top-level HTML blocks; nothing in a text can become one. FORM names how the text is written:

    quote     a block quote of one paragraph; the text is what a parser reads in it
    fence     a fenced code block, its fence longer than any in the text; the text is its content
              without the last line end
    markdown  the lines between the two blank lines, as they are. `insert=3,17` are the offsets at
              which one character was inserted so that no HTML begins there and no heading looks like
              the document's own (to be removed again, counted in the lines as written);
              `close=N` the length of what ends an open fence.

Control characters are replaced by their names, \u27e6U+001B\u27e7 for ESC (`phichat.sanitize.escape`), before all that;
with `crlf` after the form, every line end was a CR LF.
"""

import json
import re
from collections.abc import Iterator, Sequence
from html import escape as html_escape

from phichat import __version__
from phichat.sanitize import escape, sanitize_line
from phichat.transcript.export import metadata
from phichat.transcript.export.markdown_safety import make_safe
from phichat.transcript.records import ConversationRecord, TurnRecord
from phichat.types import Part, TextPart

_EXPORTED_BY = f'exported_by: "phichat {__version__}"'
_SPECIAL_CHARS = re.compile(r"[\\`*_\[\]<>&~|$^]|:(?=[\w+-]+:)")
_LINE_START_CHARS = re.compile(r"^(?:([#+=\-])|(\d+)([.)]))")


def write_markdown(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """Yield the document in pieces. Each of several conversations has its own heading."""
    is_single = len(conversations) == 1
    if not is_single:
        yield f"---\nconversations: {len(conversations)}\n{_EXPORTED_BY}\n---\n\n"
    for conversation in conversations:
        heading, facts = _escape_inline(metadata.conversation_title(conversation)), _yaml_metadata(conversation)
        yield f"---\n{facts}---\n\n# {heading}\n\n" if is_single else f"# {heading}\n\n```yaml\n{facts}```\n\n"
        yield from _render_turns(conversation)


def _yaml_metadata(conversation: ConversationRecord) -> str:
    """Return YAML. JSON's strings are YAML's too, and hold no line end that could end a block."""
    lines = [
        f"title: {_quote_yaml(metadata.conversation_title(conversation))}",
        f"id: {_quote_yaml(conversation.id)}",
        f"created_at: {_quote_yaml(metadata.format_iso(conversation.created_at))}",
        f"updated_at: {_quote_yaml(metadata.format_iso(conversation.updated_at))}",
    ]
    if conversation.origin:
        lines.append(f"origin: {_quote_yaml(conversation.origin)}")
    lines.append(_EXPORTED_BY)
    if models := metadata.answering_models(conversation.get_branch()):
        lines.append("models:")
    for model in models:
        library = model.library and f"llama-cpp-python {model.library}"
        texts = {"architecture": model.architecture, "file_size": str(model.size or ""), "sha256": model.sha256}
        texts |= {"template_sha256": model.template_sha256, "library": library, "devices": ", ".join(model.devices)}
        lines.append(f"  - name: {_quote_yaml(model.name)}")
        for name, text in texts.items():
            if text:
                lines.append(f"    {name}: {text if name == 'file_size' else _quote_yaml(text)}")
    return "\n".join(lines) + "\n"


def _quote_yaml(text: str) -> str:
    # YAML knows two characters less than JSON.
    quoted = json.dumps(escape(text), ensure_ascii=False)
    return quoted.replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")


def _render_turns(conversation: ConversationRecord) -> Iterator[str]:
    if hidden := metadata.hidden_turns_note(conversation):
        yield _render_alert("NOTE", [hidden])
    for number, (system, turn) in enumerate(metadata.iter_turns(conversation.get_branch()), 1):
        if system:
            yield f"# System prompt\n\n{_render_literal('system', system)}"
        yield f"# Prompt {number}\n\n" + "".join(map(_render_prompt_part, turn.parts))
        yield from _render_answer(number, turn)


def _render_prompt_part(part: Part) -> str:
    if isinstance(part, TextPart):
        return _render_literal("prompt", part.text)
    return _render_folded(html_escape(metadata.attachment_label(part)), "file", part.text)


def _render_folded(summary: str, kind: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{_render_fence(kind, text)}</details>\n\n"


def _render_answer(number: int, turn: TurnRecord) -> Iterator[str]:
    # Only the document has headings of the first level, so that no answer can fake a turn.
    yield f"# Answer {number}: {_escape_inline(metadata.answering_model_name(turn))}\n\n"
    if turn.reasoning:
        yield _render_folded("Reasoning", "reasoning", turn.reasoning)
    if turn.text:
        yield _render_markdown("answer", turn.text)
    if notes := list(metadata.incompleteness_notes(turn)):
        yield _render_alert("NOTE", notes)
    if warnings := metadata.code_warnings(turn):
        yield _render_alert("WARNING", warnings)
    yield f"*{_escape_inline(metadata.format_details(turn))}*\n\n"


def _render_alert(kind: str, lines: Sequence[str]) -> str:
    return f"> [!{kind}]\n" + "".join(f"> - {_escape_inline(line)}\n" for line in lines) + "\n"


def _escape_inline(text: str) -> str:
    """Return one line that Markdown shows literally."""
    line = _SPECIAL_CHARS.sub(r"\\\g<0>", sanitize_line(text))
    return _LINE_START_CHARS.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", line)


def _wrap_in_markers(kind: str, text_format: str, body: str) -> str:
    return f"<!-- phichat:{kind} {text_format} -->\n\n{body}\n\n<!-- /phichat:{kind} -->\n\n"


def _escape_text(text: str) -> tuple[str, str]:
    """Return the escaped text, and the suffix of the form for its line ends."""
    if "\r\n" in text and not re.search(r"\r(?!\n)|(?<!\r)\n", text):
        return escape(text.replace("\r\n", "\n")), " crlf"
    return escape(text), ""


def _render_literal(kind: str, text: str) -> str:
    """Return text that is shown literally."""
    escaped = escape(text)
    if 0 < len(escaped) < 2000 and escaped == sanitize_line(text):
        # One line in a fence would not wrap.
        return _wrap_in_markers(kind, "quote", f"> {_escape_inline(text)}")
    return _render_fence(kind, text)


def _render_fence(kind: str, text: str) -> str:
    escaped, line_ends = _escape_text(text)
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", escaped)), default=0))
    return _wrap_in_markers(kind, f"fence{line_ends}", f"{ticks}text\n{escaped}\n{ticks}")


def _render_markdown(kind: str, text: str) -> str:
    """Return text that is rendered as Markdown, without effect on the rest of the document."""
    escaped, line_ends = _escape_text(text)
    safe = make_safe(escaped, f"<!-- /phichat:{kind} -->")
    if safe is None:
        return _render_fence(kind, text)
    text_format = f"markdown{line_ends}"
    if safe.inserted_offsets:
        text_format += " insert=" + ",".join(map(str, safe.inserted_offsets))
    if safe.closing_fence:
        text_format += f" close={len(safe.closing_fence)}"
    return _wrap_in_markers(kind, text_format, safe.text + safe.closing_fence)
