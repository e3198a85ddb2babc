"""What a client asks for: the body of a chat completion, read strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from phichat.config import read_option
from phichat.errors import RequestRefused, UsageError
from phichat.messages import GenerationParams, Message, Role

MOST_BODY = 8 << 20
"""Bytes."""

_MOST_STOPS = 16
_MOST_REPLIES = 16
_SHOWN = 80
_SEEDS = 2**32 - 1
_NO_LIMIT = -1
"""How clients of llama.cpp and LM Studio say that they set none."""

_ROLES = {
    "system": Role.SYSTEM,
    "developer": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
}
_OPTIONS = {
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

_CHANGES_THE_ANSWER = {
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
class Asked:
    """A chat completion. model: "" leaves it to the server. options: of GenerationParams, those that were given.

    replies: how many."""

    model: str
    messages: tuple[Message, ...]
    options: Mapping[str, Any]
    streams: bool
    tells_usage: bool
    replies: int

    def params(self, usual: GenerationParams) -> GenerationParams:
        """How to sample; usual: where nothing was asked for. Its max_tokens is the most that anybody gets."""
        params = replace(usual, **self.options)
        if usual.max_tokens is not None and params.max_tokens is not None:
            params = replace(params, max_tokens=min(params.max_tokens, usual.max_tokens))
        return params


def read(body: bytes) -> Asked:
    """What the body asks for. Raises RequestRefused."""
    fields = {name: value for name, value in _document(body).items() if value is not None}
    _refuse_what_is_not_done(fields)
    model = fields.get("model", "")
    if not isinstance(model, str):
        raise _unusable("model", "a text")
    about_the_stream = fields.get("stream_options", {})
    if not isinstance(about_the_stream, dict):
        raise _unusable("stream_options", "an object")
    return Asked(
        model,
        _messages(fields.get("messages")),
        _options(fields),
        _switch(fields, "stream"),
        _switch({name: value for name, value in about_the_stream.items() if value is not None}, "include_usage"),
        _replies(fields.get("n", 1)),
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise RequestRefused("The body is not UTF-8", "send JSON in UTF-8") from None
    except RecursionError:
        raise RequestRefused("The body is nested too deeply", "send a chat completion") from None
    except ValueError as why:
        at = f" (line {why.lineno}, column {why.colno})" if isinstance(why, json.JSONDecodeError) else ""
        raise RequestRefused(f"The body is no valid JSON{at}", "send a chat completion as a JSON object") from None
    if not isinstance(document, dict):
        raise RequestRefused("The body is no JSON object", "send a chat completion as a JSON object")
    return document


def _no_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are no JSON


def _refuse_what_is_not_done(fields: Mapping[str, Any]) -> None:
    for name, harmless in _CHANGES_THE_ANSWER.items():
        if name in fields and not any(_same(fields[name], value) for value in harmless):
            raise RequestRefused(
                f"phichat serve cannot do {name}", "leave it out", code="unsupported_parameter", param=name
            )


def _same(value: object, harmless: object) -> bool:
    """Equal, but that true is not 1."""
    return value == harmless and isinstance(value, bool) == isinstance(harmless, bool)


def _replies(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_REPLIES:
        raise _unusable("n", f"a whole number from 1 to {_MOST_REPLIES}")
    return value


def _switch(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise _unusable(name, "true or false")
    return value


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, option in _OPTIONS.items():
        value = fields.get(name)
        if value is None or (option == "max_tokens" and value == _NO_LIMIT):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _unusable(name, "a number")
        options[option] = _read(name, option, value)
    if "seed" in fields:
        seed = fields["seed"]
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise _unusable("seed", "a whole number")
        options["seed"] = seed % _SEEDS  # others take 64 bits, llama.cpp 32
    if "stop" in fields:
        stop = _read("stop", "stop", fields["stop"])
        if len(stop) > _MOST_STOPS:
            raise _unusable("stop", f"{_MOST_STOPS} texts at most")
        options["stop"] = stop
    return options


def _read(name: str, option: str, value: object) -> Any:
    try:
        return read_option(option, value)[1]
    except UsageError as why:
        raise RequestRefused(
            f"{name} cannot be {_shown(value)}", why.next_step, code="invalid_value", param=name
        ) from None


def _messages(value: object) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise _unusable("messages", "a list of at least one message")
    return tuple(_message(f"messages[{at}]", message) for at, message in enumerate(value))


def _message(where: str, value: object) -> Message:
    if not isinstance(value, dict):
        raise _unusable(where, 'an object such as {"role": "user", "content": "Hello"}')
    role = value.get("role")
    if role in ("tool", "function") or value.get("tool_calls") or value.get("function_call"):
        raise RequestRefused(
            f"{where} is about a tool, and phichat serve cannot do tools",
            "send messages of text only",
            code="unsupported_parameter",
            param=where,
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise _unusable(f"{where}.role", "one of " + ", ".join(_ROLES))
    return Message(_ROLES[role], _text(f"{where}.content", value.get("content")))


def _text(where: str, content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise _unusable(where, "a text, or a list of parts of type text")
    return "".join(_part(f"{where}[{at}]", part) for at, part in enumerate(content))


def _part(where: str, part: object) -> str:
    if not isinstance(part, dict):
        raise _unusable(where, 'an object such as {"type": "text", "text": "Hello"}')
    kind, text = part.get("type"), part.get("text")
    if kind != "text":
        raise RequestRefused(
            f"{where} is of type {_shown(kind)}, and phichat serve reads text only",
            "leave it out",
            code="unsupported_content",
            param=where,
        )
    if not isinstance(text, str):
        raise _unusable(f"{where}.text", "a text")
    return text


def _unusable(param: str, wanted: str) -> RequestRefused:
    return RequestRefused(f"{param} cannot be used as it is", f"give it {wanted}", code="invalid_value", param=param)


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
