"""Prompt building: messages to token ids, without control tokens from a message's text.

llama.cpp parses control tokens out of a rendered prompt, and cannot know which of them the template wrote. So reserved
texts in the messages are masked: each is replaced by a character that occurs nowhere else, the template is rendered,
and where that character occurs the reserved text is tokenized as the letters it is made of. A prompt without reserved
texts goes to llama.cpp as it was rendered, in one piece, and gets exactly llama.cpp's ids.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from phichat.engine.worker.errors import TemplateRejected
from phichat.engine.worker.template import ChatTemplate
from phichat.engine.worker.tokenizer import Tokenizer
from phichat.types import Message

_PRIVATE_USE_RANGES = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
"""Unicode's private-use areas."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt to evaluate. text_tail: the last characters of the rendered text."""

    tokens: tuple[int, ...]
    text_tail: str


def build_prompt(messages: Sequence[Message], template: ChatTemplate, tokenizer: Tokenizer) -> TokenizedPrompt:
    """Render and tokenize the prompt for a reply to messages. Raises TemplateRejected."""
    # Lone surrogates, which some file names and pipes bring, have no UTF-8 form.
    messages = [Message(one.role, one.text.encode("utf-8", "replace").decode()) for one in messages]
    masked, masks = _mask_reserved_text(messages, template, tokenizer)
    rendered = template.render(masked)
    if tokenizer.adds_bos and tokenizer.bos:
        # The tokenizer adds it; a template that writes it too would give two.
        rendered = rendered.removeprefix(tokenizer.bos)
    first, *rest = re.split(f"([{''.join(masks)}])", rendered) if masks else (rendered,)
    tokens = tokenizer.tokenize(first.encode(), add_special=True, parse_special=True)
    for part in rest:
        if part in masks:
            tokens += tokenizer.tokenize_as_text(masks[part])
        else:
            tokens += tokenizer.tokenize_continuation(part.encode(), parse_special=True)
    return TokenizedPrompt(tuple(tokens), rendered[-64:])


def _mask_reserved_text(
    messages: list[Message], template: ChatTemplate, tokenizer: Tokenizer
) -> tuple[list[Message], dict[str, str]]:
    """Return the messages with a private character for each reserved text, and the text of each character."""
    masks: dict[str, str] = {}
    used_chars = set[str]().union(*(message.text for message in messages))
    free_chars = (chr(code) for code in chain(*_PRIVATE_USE_RANGES) if chr(code) not in used_chars)
    masked = []
    for message in messages:
        text = message.text
        # Masking the longest may uncover a shorter one.
        while reserved := tokenizer.find_special_tokens(text, template.source):
            reserved_text = max(reserved, key=len)
            known = (char for char, stands_for in masks.items() if stands_for == reserved_text)
            if (mask := next(chain(known, free_chars), None)) is None:
                raise TemplateRejected("the prompt uses every private character of Unicode")
            masks[mask] = reserved_text
            text = text.replace(reserved_text, mask)
        masked.append(Message(message.role, text))
    return masked, masks
