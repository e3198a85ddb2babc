"""Parser of chat completion requests: strict, and every error names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import msgspec

from phichat.config.settings import parse_option
from phichat.errors import ApiError, UsageError
from phichat.types import Message, Role, SamplingParams

MAX_BODY_BYTES = 8 << 20

_MAX_STOP_STRINGS = 16
_MAX_SHOWN_CHARS = 80

_OPTION_BY_FIELD = {
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "max_tokens")},
    "repetition_penalty": "repeat_penalty",
    "max_completion_tokens": "max_tokens",
}
"""Numeric fields of the API, of llama.cpp and of vLLM, and the options that they set."""

_UNSUPPORTED_FIELDS: Mapping[str, Sequence[object]] = {
    **dict.fromkeys(("tools", "functions"), ([],)),
    **dict.fromkeys(("tool_choice", "function_call"), ("none", "auto")),
    **dict.fromkeys(("top_logprobs", "frequency_penalty", "presence_penalty", "min_tokens"), (0,)),
    **dict.fromkeys(("use_beam_search", "continue_final_message", "ignore_eos"), (False,)),
    **dict.fromkeys(("logit_bias", "json_schema", "structured_outputs", "chat_template_kwargs"), ({},)),
    **dict.fromkeys(("audio", "web_search_options", "chat_template"), ()),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), ()),
    "logprobs": (False, 0),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "grammar": ("",),
    "add_generation_prompt": (True,),
}
"""Fields that change the answer in ways that phichat does not support, with the values that change nothing. Other
unknown fields concern the service, not the answer, and are ignored."""


@dataclass(frozen=True, slots=True)
class ChatCompletionRequest:
    """A chat completion request.

    model: "" for the default model. options: of SamplingParams, those that the client set. n: number of replies.
    """

    model: str
    messages: tuple[Message, ...]
    options: Mapping[str, Any]
    stream: bool
    include_usage: bool
    n: int

    def sampling_params(self, defaults: SamplingParams) -> SamplingParams:
        """Return the defaults with the client's options; the default max_tokens is also the upper limit."""
        params = replace(defaults, **self.options)
        limits = [limit for limit in (params.max_tokens, defaults.max_tokens) if limit is not None]
        return replace(params, max_tokens=min(limits, default=None))


class _Message(msgspec.Struct):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: Any = None
    function_call: Any = None


class _TextPart(msgspec.Struct):
    text: str


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = False


class _Request(msgspec.Struct):
    messages: Annotated[list[_Message], msgspec.Meta(min_length=1)]
    model: str = ""
    stream: bool = False
    stream_options: _StreamOptions = msgspec.field(default_factory=_StreamOptions)
    n: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1


def parse_request(body: bytes) -> ChatCompletionRequest:
    """Parse the body of a request. Raises ApiError."""
    fields = {name: value for name, value in _parse_json(body).items() if value is not None}
    for name, neutral_values in _UNSUPPORTED_FIELDS.items():
        if name in fields and not any(_strictly_equal(fields[name], value) for value in neutral_values):
            raise ApiError(f"{name} isn't supported", "Omit it", code="unsupported_parameter", param=name)
    sent: _Request = _convert({"messages": [], **fields}, _Request, "")
    messages = tuple(_parse_message(f"messages[{at}]", message) for at, message in enumerate(sent.messages))
    include_usage = bool(sent.stream_options.include_usage)
    return ChatCompletionRequest(sent.model, messages, _parse_options(fields), sent.stream, include_usage, sent.n)


def _parse_json(body: bytes) -> dict[str, Any]:
    # Not by msgspec, which accepts no lone surrogates: clients send them.
    next_step = "Send a chat completion as a JSON object"
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_reject_constant)
    except UnicodeDecodeError:
        raise ApiError("The body isn't UTF-8", "Send JSON in UTF-8") from None
    except RecursionError:
        raise ApiError("The body is nested too deeply", next_step) from None
    except ValueError as error:
        position = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ApiError(f"The body isn't valid JSON{position}", next_step) from None
    if not isinstance(document, dict):
        raise ApiError("The body must be a JSON object", next_step)
    return document


def _reject_constant(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity are not JSON


def _strictly_equal(value: object, neutral: object) -> bool:
    """Compare as JSON does: true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _convert(value: object, kind: Any, param: str) -> Any:
    """Check a value against a type. Raises ApiError, which names the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        field = (param + path.removesuffix("`")).removeprefix(".")
        raise _invalid_value(field, f": {reason[:1].lower()}{reason[1:]}") from None


def _invalid_value(param: str, problem: str, next_step: str = "Correct this field") -> ApiError:
    return ApiError(param + problem, next_step, code="invalid_value", param=param)


def _parse_options(fields: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, option in _OPTION_BY_FIELD.items():
        # Clients of llama.cpp and LM Studio that set no limit send -1 for max_tokens.
        if name in fields and (option != "max_tokens" or fields[name] != -1):
            options[option] = _parse_option(name, option, _convert(fields[name], int | float, name))
    if "seed" in fields:
        # Other servers take 64 bits, llama.cpp 32.
        options["seed"] = _convert(fields["seed"], int, "seed") % (2**32 - 1)
    if "stop" in fields:
        options["stop"] = _parse_option("stop", "stop", fields["stop"])
        if len(options["stop"]) > _MAX_STOP_STRINGS:
            raise _invalid_value("stop", f" has more than {_MAX_STOP_STRINGS} strings", "Send fewer")
    return options


def _parse_option(name: str, option: str, value: object) -> Any:
    try:
        return parse_option(option, value)[1]
    except UsageError as error:
        raise _invalid_value(name, f" cannot be {_shorten_json(value)}", error.next_step) from None


def _parse_message(param: str, message: _Message) -> Message:
    if message.role in ("tool", "function") or message.tool_calls or message.function_call:
        problem = f"{param} uses tools, which aren't supported"
        raise ApiError(problem, "Send text messages only", code="unsupported_parameter", param=param)
    content, param = message.content, f"{param}.content"
    if content is None:
        raise _invalid_value(param, " is missing", "Send a string, or a list of text parts")
    role = Role.SYSTEM if message.role == "developer" else Role(message.role)
    if isinstance(content, str):
        return Message(role, content)
    return Message(role, "".join(_parse_part(f"{param}[{at}]", part) for at, part in enumerate(content)))


def _parse_part(param: str, part: dict[str, Any]) -> str:
    if part.get("type") != "text":
        problem = f"{param} has the type {_shorten_json(part.get('type'))}, and only text is supported"
        raise ApiError(problem, "Omit it", code="unsupported_content", param=param)
    return str(_convert(part, _TextPart, param).text)


def _shorten_json(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"
