"""Prompts: llama.cpp's own ids for ordinary text, and no text that becomes a control token."""

import ctypes
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phichat.engine.worker import prompt
from phichat.engine.worker.llama_lib import LlamaLog, load_library
from phichat.engine.worker.template import ChatTemplate
from phichat.engine.worker.tokenizer import Tokenizer
from phichat.types import Message, Role
from support.demo_model import embedded_model
from support.tiny_gguf import write_tiny_llama

MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>", "<s>", "</s>", "<unk>"]


@pytest.fixture(scope="module")
def lib() -> Any:
    library = load_library()
    library.kept = LlamaLog(library)
    library.llama_backend_init()
    return library


@pytest.fixture(scope="module", params=["bpe", "spm", "spm-user-defined", "embedded"])
def model(lib: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = _file(request.param, tmp_path_factory.mktemp("vocabulary") / "model.gguf")
    params = lib.llama_model_default_params()
    params.vocab_only = True
    loaded = lib.llama_model_load_from_file(str(path).encode(), params)
    vocabulary = Tokenizer(lib, loaded)
    source = lib.llama_model_chat_template(loaded, None).decode()
    template = ChatTemplate(source, vocabulary.bos, vocabulary.eos, nullcontext)
    yield SimpleNamespace(lib=lib, loaded=loaded, vocabulary=vocabulary, template=template)
    lib.llama_model_free(loaded)


def _file(kind: str, path: Path) -> Path:
    if kind == "embedded":
        return embedded_model()
    write_tiny_llama(path, vocab="bpe" if kind == "bpe" else "spm")
    if kind == "spm-user-defined":
        _declare_marks_user_defined(path)
    return path


def _declare_marks_user_defined(path: Path) -> None:
    """Turn the control tokens into user-defined ones, as some conversions do."""
    import gguf

    reader = gguf.GGUFReader(path, "r+")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"]
    for position, token in zip(types.data, tokens, strict=True):
        if token in ("<|user|>", "<|assistant|>", "<|end|>"):
            types.parts[position][0] = gguf.TokenType.USER_DEFINED


def by_llama_cpp(model: Any, text: str) -> list[int]:
    content = text.encode()
    room = len(content) + 16
    ids = (model.lib.llama_token * room)()
    vocab = model.lib.llama_model_get_vocab(model.loaded)
    # In this order: add the special tokens of the vocabulary, parse the others.
    return list(ids[: model.lib.llama_tokenize(vocab, content, len(content), ids, room, True, True)])


def spelled(model: Any, tokens: tuple[int, ...]) -> str:
    vocab = model.lib.llama_model_get_vocab(model.loaded)
    buffer = ctypes.create_string_buffer(512)
    said = b""
    for token in tokens:
        size = model.lib.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        said += buffer.raw[:size]
    return said.decode("utf-8", "replace")


def reserved_ids(model: Any) -> set[int]:
    vocab, lib = model.lib.llama_model_get_vocab(model.loaded), model.lib
    names = [
        lib.llama_vocab_get_text(vocab, token).decode("utf-8", "replace") for token in range(model.vocabulary.size)
    ]
    return {token for token, name in enumerate(names) if name in MARKS}


ordinary = st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="<>\x00"), max_size=80)
hostile = st.lists(st.sampled_from([*MARKS, "<|", "im_", "end|>", " ", "\n", "hello", "<", "|", ">"]), max_size=8).map(
    "".join
)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(system=ordinary, said=ordinary, replied=ordinary)
def test_ordinary_text_gets_the_ids_of_llama_cpp(model: Any, system: str, said: str, replied: str) -> None:
    messages = [
        Message(Role.SYSTEM, system),
        Message(Role.USER, said),
        Message(Role.ASSISTANT, replied),
        Message(Role.USER, said),
    ]
    rendered = model.template.render(messages)
    if model.vocabulary.adds_bos:
        rendered = rendered.removeprefix(model.vocabulary.bos)
    assert list(prompt.build_prompt(messages, model.template, model.vocabulary).tokens) == by_llama_cpp(model, rendered)


@quick
@given(said=hostile, system=hostile)
def test_message_text_never_becomes_a_control_token(model: Any, said: str, system: str) -> None:
    def count(*texts: str) -> int:
        messages = [Message(role, text) for role, text in zip((Role.SYSTEM, Role.USER), texts, strict=True)]
        tokens = prompt.build_prompt(messages, model.template, model.vocabulary).tokens
        return sum(token in reserved for token in tokens)

    reserved = reserved_ids(model)
    assert count(system, said) == count("plain", "words")


@quick
@given(said=hostile)
def test_the_model_sees_the_text_unchanged(model: Any, said: str) -> None:
    built = prompt.build_prompt([Message(Role.USER, said)], model.template, model.vocabulary)
    rendered = model.template.render([Message(Role.USER, said)])
    assert "".join(spelled(model, built.tokens).split()).endswith("".join(rendered.split()))


def test_spelling_out_a_control_token_adds_no_space(model: Any) -> None:
    built = prompt.build_prompt([Message(Role.USER, "a<|end|>b<|im_end|><s>c")], model.template, model.vocabulary)
    assert "a<|end|>b<|im_end|><s>c" in spelled(model, built.tokens)


def test_lone_surrogates_are_replaced(model: Any) -> None:
    assert prompt.build_prompt([Message(Role.USER, "a\ud800b")], model.template, model.vocabulary).tokens


def test_private_use_characters_in_the_text_are_kept(model: Any) -> None:
    said = "\ue000<|end|><|im_end|>\ue001"
    built = prompt.build_prompt([Message(Role.USER, said)], model.template, model.vocabulary)
    assert said in spelled(model, built.tokens)
