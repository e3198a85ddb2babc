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
from dataclasses import dataclass
from itertools import chain

from phichat.engine.worker.template import ChatTemplate, TemplateRejected
from phichat.engine.worker.tokenizer import Tokenizer
from phichat.types import Message

_PRIVATE_USE_RANGES = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))
"""Unicode's private-use areas."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """tokens: what is evaluated. end: the last characters of the rendered text."""

    tokens: tuple[int, ...]
    text_tail: str


def build_prompt(messages: Sequence[Message], template: ChatTemplate, tokenizer: Tokenizer) -> TokenizedPrompt:
    """The prompt for a reply to messages. Raises Refused."""
    messages = [Message(message.role, _replace_surrogates(message.text)) for message in messages]
    masked, masks = _mask_reserved_text(messages, template, tokenizer)
    rendered = template.render(masked)
    if tokenizer.adds_bos and tokenizer.bos:
        # The tokenizer adds it; a template that writes it too would give two.
        rendered = rendered.removeprefix(tokenizer.bos)
    if not masks:
        return TokenizedPrompt(
            tuple(tokenizer.tokenize(rendered.encode(), add_special=True, parse_special=True)), rendered[-64:]
        )
    first, *rest = re.split(f"([{''.join(masks)}])", rendered)
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
    """The messages with a private character for each reserved text, and what each stands for."""
    masks: dict[str, str] = {}
    if not messages:
        return messages, masks
    used_chars = set().union(*(message.text for message in messages))
    free_chars = (chr(code) for code in chain(*_PRIVATE_USE_RANGES) if chr(code) not in used_chars)
    masked = []
    for message in messages:
        text = message.text
        # Taking out the longest may bring a shorter one to light.
        while reserved := tokenizer.find_special_tokens(text, template.source):
            reserved_text = max(reserved, key=len)
            mask = next((mark for mark, stands_for in masks.items() if stands_for == reserved_text), None) or next(
                free_chars, None
            )
            if mask is None:
                raise TemplateRejected("the prompt uses every private character of Unicode")
            masks[mask] = reserved_text
            text = text.replace(reserved_text, mask)
        masked.append(Message(message.role, text))
    return masked, masks


def _replace_surrogates(text: str) -> str:
    """Lone surrogates, which some file names and pipes bring, have no UTF-8 form."""
    return text.encode("utf-8", "replace").decode("utf-8")
