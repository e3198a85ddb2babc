"""Markdown that renders on GitHub and that nothing in the content can break.

Every text stands between two top-level HTML comments, `<!-- phichat:KIND FORM -->` and
`<!-- /phichat:KIND -->`, KIND one of system, prompt, reasoning, answer. A CommonMark parser finds them
as its top-level HTML blocks; nothing in a text can become one. FORM says how the text was written:

    quote     a block quote of one paragraph; the text is what a parser reads in it
    fence     a fenced code block, its fence longer than any in the text; the text is its content
              without the last line end
    markdown  the lines between the two blank lines, as they are. `insert=3,17` are the offsets at
              which one character was put in so that no HTML begins there and no heading stands beside
              the document's own (to be taken out again, each counted in the lines as they stand);
              `close=N` the length of what ends an open fence.

Characters that are unsafe to show are named, \u27e6U+001B\u27e7 for ESC (`phichat.terminal.escape`), before all that;
with `crlf` behind the form, every line end was a CR LF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from phichat import __version__
from phichat.terminal import clean_line, escape
from phichat.transcript.export import facts
from phichat.transcript.export.contained import contained
from phichat.transcript.records import ConversationRecord, TurnRecord

_SPECIAL = re.compile(r"[\\`*_\[\]<>&~|$^]|:(?=[\w+-]+:)")
_AT_START = re.compile(r"^(?:([#+=\-])|(\d+)([.)]))")


def write(conversations: Sequence[ConversationRecord]) -> Iterator[str]:
    """The document in pieces. Several conversations follow one another, each under its own heading."""
    match conversations:
        case [only]:
            yield f"---\n{_provenance(only)}---\n\n# {_inline(facts.title(only))}\n\n"
            yield from _turns(only)
        case _:
            yield f'---\nconversations: {len(conversations)}\nexported_by: "phichat {__version__}"\n---\n\n'
            for conversation in conversations:
                yield f"# {_inline(facts.title(conversation))}\n\n```yaml\n{_provenance(conversation)}```\n\n"
                yield from _turns(conversation)


def _provenance(conversation: ConversationRecord) -> str:
    """YAML. JSON's strings are YAML's too, and hold no line end that could end a block."""
    lines = [
        f"title: {_quoted(facts.title(conversation))}",
        f"id: {_quoted(conversation.id)}",
        f"created_at: {_quoted(facts.iso(conversation.created_at))}",
        f"updated_at: {_quoted(facts.iso(conversation.updated_at))}",
    ]
    if conversation.origin:
        lines.append(f"origin: {_quoted(conversation.origin)}")
    lines.append(f'exported_by: "phichat {__version__}"')
    if answered := facts.models(conversation.branch()):
        lines.append("models:")
    for model in answered:
        lines.append(f"  - name: {_quoted(model.name)}")
        known = {
            "architecture": model.architecture,
            "file_size": model.size,
            "sha256": model.sha256,
            "template_sha256": model.template_sha256,
            "library": model.library and f"llama-cpp-python {model.library}",
            "devices": ", ".join(model.devices),
        }
        lines += [
            f"    {name}: {_quoted(value) if isinstance(value, str) else value}"
            for name, value in known.items()
            if value
        ]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # YAML knows two characters less than JSON.
    return re.sub(
        "[\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(escape(text), ensure_ascii=False)
    )


def _turns(conversation: ConversationRecord) -> Iterator[str]:
    if hidden := facts.others(conversation):
        yield _alert("NOTE", [hidden])
    system: str | None = None
    for number, turn in enumerate(conversation.branch(), 1):
        if turn.system and turn.system != system:
            yield f"# System prompt\n\n{_literal('system', turn.system)}"
        system = turn.system
        yield f"# Prompt {number}\n\n{_literal('prompt', turn.prompt)}"
        yield from _answer(number, turn)


def _answer(number: int, turn: TurnRecord) -> Iterator[str]:
    # Headings of the first level are the document's alone, so that no answer can make up a turn.
    yield f"# Answer {number}: {_inline(facts.model_name(turn))}\n\n"
    if turn.reasoning:
        yield f"<details><summary>Reasoning</summary>\n\n{_fence('reasoning', turn.reasoning)}</details>\n\n"
    if turn.text:
        yield _markdown("answer", turn.text)
    if said := list(facts.remarks(turn)):
        yield _alert("NOTE", said)
    if warned := facts.warnings(turn):
        yield _alert("WARNING", warned)
    yield "*" + _inline(", ".join(filter(None, [facts.when(turn.created_at), facts.generation(turn)]))) + "*\n\n"


def _alert(kind: str, lines: Sequence[str]) -> str:
    return f"> [!{kind}]\n" + "".join(f"> - {_inline(line)}\n" for line in lines) + "\n"


def _inline(text: str) -> str:
    """One line that Markdown shows as it is."""
    line = _SPECIAL.sub(r"\\\g<0>", clean_line(text))
    return _AT_START.sub(lambda found: f"\\{found[1]}" if found[1] else f"{found[2]}\\{found[3]}", line)


def _between(kind: str, form: str, written: str) -> str:
    return f"<!-- phichat:{kind} {form} -->\n\n{written}\n\n<!-- /phichat:{kind} -->\n\n"


def _shown(text: str) -> tuple[str, str]:
    """The text as it is written, and what the form says of its line ends."""
    if "\r\n" in text and not re.search(r"\r(?!\n)|(?<!\r)\n", text):
        return escape(text.replace("\r\n", "\n")), " crlf"
    return escape(text), ""


def _literal(kind: str, text: str) -> str:
    """A text that was typed, to be read as it was typed."""
    shown = escape(text)
    if 0 < len(shown) < 2000 and shown == clean_line(text):
        # One line in a fence would not wrap.
        return _between(kind, "quote", f"> {_inline(text)}")
    return _fence(kind, text)


def _fence(kind: str, text: str) -> str:
    shown, ends = _shown(text)
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return _between(kind, f"fence{ends}", f"{ticks}text\n{shown}\n{ticks}")


def _markdown(kind: str, text: str) -> str:
    """A text that is Markdown itself, kept from reaching beyond its place."""
    shown, ends = _shown(text)
    safe = contained(shown, f"<!-- /phichat:{kind} -->")
    if safe is None:
        return _fence(kind, text)
    form = f"markdown{ends}"
    if safe.inserted:
        form += " insert=" + ",".join(map(str, safe.inserted))
    if safe.closing:
        form += f" close={len(safe.closing)}"
    return _between(kind, form, safe.text + safe.closing)
