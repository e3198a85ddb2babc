"""Chat templates of all kinds, rendered in the sandbox."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from phichat.engine.worker.errors import TemplateRejected
from phichat.engine.worker.template import CHATML, KNOWN_TEMPLATES, ChatTemplate, select_template
from phichat.types import Message, Role

SYSTEM, USER, REPLY = Message(Role.SYSTEM, "be kind"), Message(Role.USER, "hi"), Message(Role.ASSISTANT, "hello")

NO_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
)
IGNORES_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
)
PARTS = "{% for m in messages %}[{{ m.role }}] {{ m.content[0]['text'] }}\n{% endfor %}"


def render(source: str, *messages: Message) -> str:
    return ChatTemplate(source, "<s>", "</s>", nullcontext).render(messages)


@pytest.mark.parametrize("source", [NO_SYSTEM, IGNORES_SYSTEM])
def test_a_system_prompt_survives_a_template_without_the_role(source: str) -> None:
    assert render(source, SYSTEM, USER, REPLY, USER) == "[user] be kind\n\nhi\n[assistant] hello\n[user] hi\n"


def test_adjacent_messages_of_one_role_are_joined_where_roles_must_alternate() -> None:
    assert render(ALTERNATES, USER, USER, REPLY, USER) == "[user] hi\n\nhi\n[assistant] hello\n[user] hi\n"


def test_content_in_parts() -> None:
    assert render(PARTS, USER) == "[user] hi\n"


def test_common_extensions_are_supported() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% break %}{% endfor %}"
    assert render(source, USER) == "hi"
    assert "20" in render("{{ strftime_now('%Y') }}{{ messages | tojson }}{{ bos_token }}", USER)


@pytest.mark.parametrize(
    "source",
    [
        "{% for",
        "{{ messages[5].content.nothing }}",
        "{{ ''.__class__.__mro__ }}{{ messages[0].content }}",
        "{{ 1 // 0 }}",
        "nothing that was said",
        "{{ raise_exception('never') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content.format(1) }}{{ '%d' % 'x' }}",
    ],
)
def test_an_unusable_template_is_refused(source: str) -> None:
    with pytest.raises(TemplateRejected):
        render(source, USER)


def test_the_sandbox_cannot_be_escaped() -> None:
    for source in ("{{ cycler.__init__.__globals__.os.environ }}", "{{ messages.append(1) }}"):
        with pytest.raises(TemplateRejected):
            render(source + "{{ messages[0].content }}", USER)


@pytest.mark.parametrize("name", KNOWN_TEMPLATES)
def test_every_known_format_takes_a_conversation(name: str) -> None:
    prompt = render(KNOWN_TEMPLATES[name], SYSTEM, USER, REPLY, Message(Role.USER, "bye"))
    assert [prompt.index(text) for text in ("be kind", "hi", "hello", "bye")] == sorted(
        prompt.index(text) for text in ("be kind", "hi", "hello", "bye")
    )


@pytest.mark.parametrize(
    ("own", "architecture", "reserved", "name"),
    [
        ("{{ messages }}", "phi3", set(), "file"),
        (None, "phi3", {"<|user|>", "<|end|>"}, "phi-3"),
        (None, "phi3", {"<|im_start|>", "<|im_sep|>"}, "phi-4"),
        (None, "phi2", set(), "phi-2"),
        (None, "llama", {"<|im_start|>"}, "chatml"),
        (None, "llama", {"<|start_header_id|>"}, "llama-3"),
        ("  ", "gemma3", {"<start_of_turn>"}, "gemma"),
        ("chatml", "llama", set(), "chatml"),
        (None, "unheard-of", set(), "chatml"),
    ],
)
def test_template_selection(own: str | None, architecture: str, reserved: set[str], name: str) -> None:
    assert select_template(own, architecture, reserved.__contains__)[0] == name


def test_every_rendering_is_guarded() -> None:
    watches = 0

    @contextmanager
    def watched() -> Iterator[None]:
        nonlocal watches
        watches += 1
        yield

    template = ChatTemplate(CHATML, "", "", watched)
    before = watches
    template.render([USER])
    assert watches == before + 1
