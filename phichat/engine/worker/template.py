"""Chat templates: the model's own Jinja source, rendered in a sandbox.

The sandbox keeps a template from running code, not from running forever: the caller guards each rendering, and the
supervisor has a deadline for it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from itertools import groupby
from typing import Any

from jinja2 import TemplateError as JinjaError
from jinja2 import nodes
from jinja2.exceptions import TemplateRuntimeError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from phichat.engine.worker.errors import TemplateRejected
from phichat.types import Message, Role

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KNOWN_TEMPLATES = {
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
"""Formats of model families, for files without a template."""
_TEMPLATE_OF_TOKENS = {
    ("<|im_start|>", "<|im_sep|>"): "phi-4",
    ("<|im_start|>",): "chatml",
    ("<|start_header_id|>",): "llama-3",
    ("<start_of_turn>",): "gemma",
    ("<|user|>", "<|end|>"): "phi-3",
}
"""Formats by the reserved tokens that a vocabulary has."""
_STOP_STRINGS = {"chatml": ("<|im_end|>",), "phi-2": ("\nInstruct:",)}
"""Texts that end a reply where the vocabulary may have no token for it."""
_TEMPLATE_ERRORS = (
    *(JinjaError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, MemoryError),
)
"""Errors that an untrusted template can raise when it is compiled or rendered."""


def select_template(
    file_template: str | None, architecture: str, has_special_token: Callable[[str], bool]
) -> tuple[str, str, tuple[str, ...]]:
    """Return (name, source, stop strings) of the template for a model.

    The file's own if it has one, else the one that the reserved tokens of its vocabulary and its architecture point
    to, else ChatML.
    """
    if file_template and (name := file_template.strip()):
        return (name, KNOWN_TEMPLATES[name], ()) if name in KNOWN_TEMPLATES else ("file", file_template, ())
    matches = (name for tokens, name in _TEMPLATE_OF_TOKENS.items() if all(map(has_special_token, tokens)))
    name = next(matches, "phi-2" if architecture == "phi2" else "chatml")
    return name, KNOWN_TEMPLATES[name], _STOP_STRINGS.get(name, ())


class _GenerationTag(Extension):
    """`{% generation %}`, which marks what is trained on; a prompt has its content alone."""

    tags = {"generation"}  # noqa: RUF012  (as jinja2 declares it)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: object) -> None:
    raise TemplateRuntimeError(str(message))


class ChatTemplate:
    """A compiled template, and the kinds of messages that it supports, found by rendering probes.

    render_guard: entered around each compilation and rendering, which may take any time.
    Raises TemplateRejected when it cannot be compiled, or cannot render a single message of a user.
    """

    def __init__(
        self, source: str, bos: str, eos: str, render_guard: Callable[[], AbstractContextManager[None]]
    ) -> None:
        self.source, self._render_guard = source, render_guard
        extensions = [loopcontrols, _GenerationTag]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda date_format: datetime.now().strftime(date_format)
        self._context = {"bos_token": bos, "eos_token": eos, "add_generation_prompt": True, "tools": None}
        self._needs_content_parts = False
        with self._guard():
            self._template = environment.from_string(source)
        user, system = Message(Role.USER, "phichat-probe-user"), Message(Role.SYSTEM, "phichat-probe-system")
        self._needs_content_parts = user.text not in self._render_messages([user])
        if self._needs_content_parts and user.text not in self._render_messages([user]):
            raise TemplateRejected("it leaves out the user's message")
        self._supports_system = self._output_contains([system, user], system.text)
        self._supports_repeated_roles = self._output_contains([user, user], user.text)

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """Enter the render guard, and convert the errors that the template raises."""
        try:
            with self._render_guard():
                yield
        except _TEMPLATE_ERRORS as error:
            raise TemplateRejected(" ".join(str(error).split()) or type(error).__name__) from error

    def _output_contains(self, messages: Sequence[Message], text: str) -> bool:
        with suppress(TemplateRejected):
            return text in self._render_messages(messages)
        return False

    def render(self, messages: Sequence[Message]) -> str:
        """Return the prompt's text. Raises TemplateRejected.

        A template without a system role gets the system prompt at the start of the user's first message; one whose
        roles must alternate gets adjacent messages of one role as one message.
        """
        if not self._supports_system:
            messages = _fold_system(messages)
        if not self._supports_repeated_roles:
            runs = groupby(messages, key=lambda message: message.role)
            messages = [Message(role, _join_texts(run)) for role, run in runs]
        return self._render_messages(messages)

    def _render_messages(self, messages: Sequence[Message]) -> str:
        def build_content(text: str) -> Any:
            return [{"type": "text", "text": text}] if self._needs_content_parts else text

        template_messages = [{"role": str(one.role), "content": build_content(one.text)} for one in messages]
        with self._guard():
            rendered = self._template.render(self._context, messages=template_messages)
        return rendered


def _fold_system(messages: Sequence[Message]) -> list[Message]:
    system = _join_texts(message for message in messages if message.role is Role.SYSTEM)
    others = [message for message in messages if message.role is not Role.SYSTEM]
    if system and others and others[0].role is Role.USER:
        others[0] = Message(Role.USER, f"{system}\n\n{others[0].text}")
    elif system:
        others.insert(0, Message(Role.USER, system))
    return others


def _join_texts(messages: Iterable[Message]) -> str:
    return "\n\n".join(message.text for message in messages)
