"""Chat templates: the model's own Jinja source, rendered in a sandbox.

The sandbox keeps a template from running code; it does not keep it from taking forever, so the
caller watches each rendering and the supervisor has a deadline for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phichat.messages import Message, Role

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KNOWN = {
    "chatml": CHATML,
    "phi-2": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n"
        "{% elif m.role == 'user' %}Instruct: {{ m.content }}\n{% else %}Output: {{ m.content }}\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}Output:{% endif %}"
    ),
    "phi-3": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "phi-4": (
        "{% for m in messages %}<|im_start|>{{ m.role }}<|im_sep|>{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant<|im_sep|>{% endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
        "{% endif %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content }}"
        "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "llama-3": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
}
"""The formats that files without a template are given, by `choose`. Facts of the model families."""

_STOPS = {"chatml": ("<|im_end|>",), "phi-2": ("\nInstruct:",)}
"""What ends a reply where the vocabulary may have no token for it."""


class Refused(Exception):
    """A template cannot render these messages; the text is the template's own."""


def choose(own: str | None, architecture: str, has: Callable[[str], bool]) -> tuple[str, str, tuple[str, ...]]:
    """(name, source, stop strings) of the template for a model.

    The file's own, if it has one. Else what its architecture and the reserved tokens of its
    vocabulary show, by `has`; else ChatML.
    """
    if own and own.strip() in KNOWN:
        return own.strip(), KNOWN[own.strip()], ()
    if own and own.strip():
        return "file", own, ()
    if has("<|im_start|>"):
        name = "phi-4" if has("<|im_sep|>") else "chatml"
    elif has("<|start_header_id|>"):
        name = "llama-3"
    elif has("<start_of_turn>"):
        name = "gemma"
    elif has("<|user|>") and has("<|end|>"):
        name = "phi-3"
    else:
        name = "phi-2" if architecture == "phi2" else "chatml"
    return name, KNOWN[name], _STOPS.get(name, ())


class _Generation(Extension):
    """`{% generation %}` marks what a trainer learns from; for a prompt it is nothing."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: object) -> None:
    raise TemplateRuntimeError(str(message))


def _now(layout: str) -> str:
    return datetime.now().strftime(layout)


class ChatTemplate:
    """A compiled template and what it can take, found out by trying.

    watched: entered around each compilation and rendering, which may take as long as the author of the
    template likes.
    Raises Refused when it cannot be compiled, or cannot render a single message of a user.
    """

    def __init__(self, source: str, bos: str, eos: str, watched: Callable[[], AbstractContextManager[None]]) -> None:
        self.source = source
        self._watched = watched
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
        )
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        self._values = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True, "tools": None}
        self._takes_parts = False
        try:
            with watched():
                self._template = environment.from_string(source)
        except (JinjaError, RecursionError, MemoryError, OverflowError, ValueError) as why:
            raise Refused(_sentence(why)) from why
        self._probe()

    def _probe(self) -> None:
        user = Message(Role.USER, "phichat-probe-user")
        if user.text not in self._rendered([user]):
            self._takes_parts = True
            if user.text not in self._rendered([user]):
                raise Refused("it leaves out what the user says")
        system = Message(Role.SYSTEM, "phichat-probe-system")
        self.takes_system = self._holds([system, user], system.text)
        self._takes_repeats = self._holds([user, user], user.text)

    def _holds(self, messages: Sequence[Message], text: str) -> bool:
        try:
            return text in self._rendered(messages)
        except Refused:
            return False

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt. Raises Refused.

        A template without a system role gets the system prompt before the first message of the
        user; one whose roles must alternate gets neighbours of one role as one message.
        """
        messages = list(messages)
        if not self.takes_system:
            messages = _folded(messages)
        if not self._takes_repeats:
            messages = _merged(messages)
        return self._rendered(messages)

    def _rendered(self, messages: Sequence[Message]) -> str:
        said: list[dict[str, Any]] = [
            {
                "role": str(message.role),
                "content": [{"type": "text", "text": message.text}] if self._takes_parts else message.text,
            }
            for message in messages
        ]
        try:
            with self._watched():
                return self._template.render(self._values, messages=said)
        except (
            JinjaError,
            SecurityError,
            TypeError,
            ValueError,
            LookupError,
            AttributeError,
            ArithmeticError,
            RecursionError,
            MemoryError,
        ) as why:
            raise Refused(_sentence(why)) from why


def _sentence(why: Exception) -> str:
    return " ".join(str(why).split()) or type(why).__name__


def _folded(messages: list[Message]) -> list[Message]:
    system = "\n\n".join(message.text for message in messages if message.role is Role.SYSTEM)
    others = [message for message in messages if message.role is not Role.SYSTEM]
    if system and others and others[0].role is Role.USER:
        others[0] = replace(others[0], text=f"{system}\n\n{others[0].text}")
    elif system:
        others.insert(0, Message(Role.USER, system))
    return others


def _merged(messages: list[Message]) -> list[Message]:
    return [
        Message(role, "\n\n".join(message.text for message in run))
        for role, run in groupby(messages, key=lambda message: message.role)
    ]
