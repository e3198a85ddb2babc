"""What a client asks for: the body of a chat completion, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phichat.config.settings import parse_option
from phichat.errors import ApiError, UsageError
from phichat.types import Message, Role, SamplingParams

MAX_BODY_BYTES = 8 << 20
"""Bytes."""

_MAX_STOP_STRINGS = 16
_MAX_N = 16
_MAX_SHOWN_CHARS = 80
_SEED_MODULUS = 2**32 - 1
_NO_LIMIT = -1
"""How clients of llama.cpp and LM Studio say that they set none."""

_ROLE_BY_NAME = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_OPTION_BY_FIELD = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repeat_penalty": "repeat_penalty",
    "repetition_penalty": "repeat_penalty",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
}
"""Fields that are numbers, and the options they set; the first three of the API, the others of llama.cpp and vLLM."""

_UNSUPPORTED_FIELDS = {
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "grammar": ("",),
    "json_schema": ({},),
    "structured_outputs": ({},),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
    "add_generation_prompt": (True,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
}
"""Fields that phichat does not do, and that would give another answer than the one asked for; with the values
that ask for nothing. Every other unknown field is for the service, not for the answer, and is left alone."""


@dataclass(frozen=True, slots=True)
class ChatCompletionRequest:
    """A chat completion. model: "" leaves it to the server. options: of GenerationParams, those that were given.

    replies: how many."""

    model: str
    messages: tuple[Message, ...]
    options: Mapping[str, Any]
    stream: bool
    include_usage: bool
    n: int

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """How to sample; usual: where nothing was asked for. Its max_tokens is the most that anybody gets."""
        params = replace(defaults, **self.options)
        if defaults.max_tokens is not None and params.max_tokens is not None:
            params = replace(params, max_tokens=min(params.max_tokens, defaults.max_tokens))
        return params


def parse_request(body: bytes) -> ChatCompletionRequest:
    """What the body asks for. Raises RequestRefused."""
    fields = {name: value for name, value in _parse_json(body).items() if value is not None}
    _reject_unsupported(fields)
    model = fields.get("model", "")
    if not isinstance(model, str):
        raise _invalid_value("model", "a text")
    stream_options = fields.get("stream_options", {})
    if not isinstance(stream_options, dict):
        raise _invalid_value("stream_options", "an object")
    return ChatCompletionRequest(
        model,
        _parse_messages(fields.get("messages")),
        _parse_options(fields),
        _parse_bool(fields, "stream"),
        _parse_bool({name: value for name, value in stream_options.items() if value is not None}, "include_usage"),
        _parse_n(fields.get("n", 1)),
    )


def _parse_json(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_reject_constant)
    except UnicodeDecodeError:
        raise ApiError("The body is not UTF-8", "Send JSON in UTF-8") from None
    except RecursionError:
        raise ApiError("The body is nested too deeply", "Send a chat completion") from None
    except ValueError as error:
        position = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(f"The body is no valid JSON{position}", "Send a chat completion as a JSON object") from None
    if not isinstance(document, dict):
        raise ApiError("The body is no JSON object", "Send a chat completion as a JSON object")
    return document


def _reject_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _reject_unsupported(fields: Mapping[str, Any]) -> None:
    for name, neutral_values in _UNSUPPORTED_FIELDS.items():
        if name in fields and not any(_strictly_equal(fields[name], value) for value in neutral_values):
            raise ApiError(f"phichat serve cannot do {name}", "Leave it out", code="unsupported_parameter", param=name)


def _strictly_equal(value: object, neutral: object) -> bool:
    """Equal, but that true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _parse_n(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_N:
        raise _invalid_value("n", f"a whole number from 1 to {_MAX_N}")
    return value


def _parse_bool(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise _invalid_value(name, "true or false")
    return value


def _parse_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, option in _OPTION_BY_FIELD.items():
        value = fields.get(name)
        if value is None or (option == "max_tokens" and value == _NO_LIMIT):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _invalid_value(name, "a number")
        options[option] = _parse_option(name, option, value)
    if "seed" in fields:
        seed = fields["seed"]
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise _invalid_value("seed", "a whole number")
        options["seed"] = seed % _SEED_MODULUS  # others take 64 bits, llama.cpp 32
    if "stop" in fields:
        stop = _parse_option("stop", "stop", fields["stop"])
        if len(stop) > _MAX_STOP_STRINGS:
            raise _invalid_value("stop", f"{_MAX_STOP_STRINGS} texts at most")
        options["stop"] = stop
    return options


def _parse_option(name: str, option: str, value: object) -> Any:
    try:
        return parse_option(option, value)[1]
    except UsageError as error:
        raise ApiError(
            f"{name} cannot be {_shorten_json(value)}", error.next_step, code="invalid_value", param=name
        ) from None


def _parse_messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _invalid_value("messages", "a list of at least one message")
    return tuple(_parse_message(f"messages[{at}]", message) for at, message in enumerate(value))


def _parse_message(param: str, value: object) -> Message:
    if not isinstance(value, dict):
        raise _invalid_value(param, 'an object such as {"role": "user", "content": "Hello"}')
    role = value.get("role")
    if role in ("tool", "function") or value.get("tool_calls") or value.get("function_call"):
        raise ApiError(
            f"{param} is about a tool, and phichat serve cannot do tools",
            "Send messages of text only",
            code="unsupported_parameter",
            param=param,
        )
    if not isinstance(role, str) or role not in _ROLE_BY_NAME:
        raise _invalid_value(f"{param}.role", "one of " + ", ".join(_ROLE_BY_NAME))
    return Message(_ROLE_BY_NAME[role], _parse_content(f"{param}.content", value.get("content")))


def _parse_content(param: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _invalid_value(param, "a text, or a list of parts of type text")
    return "".join(_parse_content_part(f"{param}[{at}]", part) for at, part in enumerate(content))


def _parse_content_part(param: str, part: object) -> str:
    if not isinstance(part, dict):
        raise _invalid_value(param, 'an object such as {"type": "text", "text": "Hello"}')
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        raise ApiError(
            f"{param} is of type {_shorten_json(kind)}, and phichat serve reads text only",
            "Leave it out",
            code="unsupported_content",
            param=param,
        )
    if not isinstance(text, str):
        raise _invalid_value(f"{param}.text", "a text")
    return text


def _invalid_value(param: str, expected: str) -> ApiError:
    return ApiError(f"{param} cannot be used as it is", f"Give it {expected}", code="invalid_value", param=param)


def _shorten_json(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"
