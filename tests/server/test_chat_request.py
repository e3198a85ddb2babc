"""The body of a chat completion, read strictly."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phichat.errors import ApiError
from phichat.server import chat_request
from phichat.types import Message, Role, SamplingParams

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
HI = [{"role": "user", "content": "Hi"}]


def read(**fields: Any) -> chat_request.ChatCompletionRequest:
    return chat_request.parse_request(json.dumps({"messages": HI, **fields}).encode())


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.status == 400
    return caught.value


def test_the_conversation_is_taken_as_it_is() -> None:
    said = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None},
        {"role": "user", "content": "", "name": "Bob"},
    ]
    assert read(messages=said).messages == (
        Message(Role.SYSTEM, "Be kind."),
        Message(Role.USER, "ab"),
        Message(Role.ASSISTANT, "c"),
        Message(Role.USER, ""),
    )


def test_options_replace_what_is_usual_and_null_is_nothing() -> None:
    what = read(temperature=0, top_k=3, min_p=0.5, max_completion_tokens=7, stop=["a"], seed=5, top_p=None)
    assert what.sampling_params(SamplingParams(top_p=0.3)) == SamplingParams(
        temperature=0.0, top_k=3, top_p=0.3, min_p=0.5, max_tokens=7, stop=("a",), seed=5
    )
    assert read().sampling_params(SamplingParams(temperature=0.1)) == SamplingParams(temperature=0.1)


@pytest.mark.parametrize(("asked_for", "given"), [(None, 100), (50, 50), (500, 100)])
def test_nobody_gets_more_tokens_than_the_server_allows(asked_for: int | None, given: int) -> None:
    assert read(max_tokens=asked_for).sampling_params(SamplingParams(max_tokens=100)).max_tokens == given


@pytest.mark.parametrize("seed", [-1, 2**63 - 1, 0, -(2**63)])
def test_seeds_of_64_bits_are_taken(seed: int) -> None:
    once, again = (read(seed=seed).options["seed"] for _ in range(2))
    assert once == again
    assert 0 <= once < 2**32 - 1


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"tool_choice": "required"},
        {"functions": [{"name": "f"}]},
        {"logprobs": True},
        {"top_logprobs": 3},
        {"response_format": {"type": "json_object"}},
        {"modalities": ["text", "audio"]},
        {"logit_bias": {"3": 5}},
        {"frequency_penalty": 0.5},
        {"presence_penalty": -0.5},
        {"grammar": "root ::= x"},
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, Any]) -> None:
    (name,) = fields
    error = refused(**fields)
    assert (error.param, error.code) == (name, "unsupported_parameter")
    assert name in str(error)


def test_what_changes_nothing_is_left_alone() -> None:
    read(
        tools=[],
        tool_choice="auto",
        logprobs=False,
        n=1,
        max_tokens=-1,
        response_format={"type": "text"},
        frequency_penalty=0.0,
        user="u",
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        parallel_tool_calls=True,
        of_next_year={"x": 1},
    )


@pytest.mark.parametrize(
    "message",
    [
        {"role": "tool", "tool_call_id": "1", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]},
        {"role": "user", "content": [{"type": "input_audio"}]},
    ],
)
def test_what_is_no_text_is_refused(message: dict[str, Any]) -> None:
    assert refused(messages=[message]).code in ("unsupported_parameter", "unsupported_content")


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": []},
        {"messages": None},
        {"messages": "Hi"},
        {"messages": ["Hi"]},
        {"messages": [{"role": "king", "content": "x"}]},
        {"messages": [{"role": ["user"], "content": "x"}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "user", "content": ["x"]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]},
        {"model": 3},
        {"stream": "yes"},
        {"stream_options": []},
        {"temperature": "hot"},
        {"temperature": True},
        {"temperature": -1},
        {"top_p": 2},
        {"top_k": 1.5},
        {"max_tokens": 0},
        {"max_tokens": 10**400},
        {"seed": 1.0},
        {"n": 0},
        {"n": 99},
        {"n": True},
        {"stop": [""]},
        {"stop": ["x"] * 100},
    ],
)
def test_what_cannot_be_used_is_told_with_the_field(fields: dict[str, Any]) -> None:
    (name,) = fields
    error = refused(**fields)
    assert error.param is not None
    assert error.param.startswith(name)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b'"x"', b"\xff\xfe{}", b"[" * 200_000, b'{"n":' * 100_000, b'{"seed": NaN}', b"9" * 9999],
)
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="The body"):
        chat_request.parse_request(body)


@given(
    st.dictionaries(
        st.sampled_from(["model", "messages", "stream", "stop", "seed", "n", "temperature", "stream_options", "tools"])
        | st.text(max_size=8),
        JSON | st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "tool", ""]), "content": JSON})),
    )
    | JSON
)
def test_any_json_is_taken_or_refused(document: object) -> None:
    try:
        what = chat_request.parse_request(json.dumps(document).encode())
    except ApiError as error:
        assert error.status == 400
        assert "\n" not in str(error)
    else:
        assert what.messages


@given(st.binary())
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    with pytest.raises(ApiError):
        chat_request.parse_request(body)
