"""From messages to token ids, so that nothing anybody typed becomes a control token.

llama.cpp parses control tokens out of a rendered prompt, and cannot know which of them the template
wrote. So reserved texts are taken out of the messages first: each is replaced by a character that
stands nowhere else, the template is rendered, and where that character comes out again the reserved
text is tokenized as the letters it is made of. A prompt without reserved texts goes to llama.cpp as
it was rendered, in one piece, and gets exactly llama.cpp's ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

from phichat.engine.worker.template import ChatTemplate, Refused
from phichat.engine.worker.vocabulary import Vocabulary
from phichat.messages import Message

_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
"""Unicode's private-use areas."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """tokens: what is evaluated. end: the last characters of the rendered text."""

    tokens: tuple[int, ...]
    end: str


def build(messages: Sequence[Message], template: ChatTemplate, vocabulary: Vocabulary) -> Prompt:
    """The prompt for a reply to messages. Raises Refused."""
    messages = [replace(message, text=_encodable(message.text)) for message in messages]
    marked, marks = _mark(messages, template, vocabulary)
    rendered = template.render(marked)
    if vocabulary.adds_bos and vocabulary.bos:
        # The tokenizer adds it; a template that writes it too would give two.
        rendered = rendered.removeprefix(vocabulary.bos)
    if not marks:
        return Prompt(
            tuple(vocabulary.tokenize(rendered.encode(), add_special=True, parse_special=True)), rendered[-64:]
        )
    first, *rest = re.split(f"([{''.join(marks)}])", rendered)
    tokens = vocabulary.tokenize(first.encode(), add_special=True, parse_special=True)
    for part in rest:
        if part in marks:
            tokens += vocabulary.literal(marks[part])
        else:
            tokens += vocabulary.continuation(part.encode(), parse_special=True)
    return Prompt(tuple(tokens), rendered[-64:])


def _mark(
    messages: list[Message], template: ChatTemplate, vocabulary: Vocabulary
) -> tuple[list[Message], dict[str, str]]:
    """The messages with a private character for each reserved text, and what each stands for."""
    marks: dict[str, str] = {}
    if not messages:
        return messages, marks
    used = set().union(*(message.text for message in messages))
    free = (chr(code) for code in chain(*_PRIVATE) if chr(code) not in used)
    marked = []
    for message in messages:
        text = message.text
        # Taking out the longest may bring a shorter one to light.
        while reserved := vocabulary.reserved_in(text, template.source):
            name = max(reserved, key=len)
            mark = next((mark for mark, stands_for in marks.items() if stands_for == name), None) or next(free, None)
            if mark is None:
                raise Refused("the prompt uses every private character of Unicode")
            marks[mark] = name
            text = text.replace(name, mark)
        marked.append(replace(message, text=text))
    return marked, marks


def _encodable(text: str) -> str:
    """Lone surrogates, which some file names and pipes bring, have no UTF-8 form."""
    return text.encode("utf-8", "replace").decode("utf-8")
