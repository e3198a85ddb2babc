"""What is asked of a server, and what of the user's options it can be asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from phichat.types import Message, SamplingParams

_OPENAI_OPTIONS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "max_tokens",
    "stop": "stop",
}
_VENDOR_OPTIONS = {
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp's word, and vLLM's
    "repeat_last_n": ("repeat_last_n",),
}
SERVER_SIDE_OPTIONS = ("ctx_size", "n_gpu_layers", "cache_type_k", "cache_type_v", "threads", "draft")
"""Options that a server was started with."""


def build_options(params: SamplingParams, explicit_options: Collection[str]) -> dict[str, Any]:
    """The options as the API spells them: what is not the default, or has been set to it (given).

    What nobody has set is left to the server, which knows its model better than a default does.
    """
    default = SamplingParams()
    selected: dict[str, Any] = {}
    for name, api_name in _OPENAI_OPTIONS.items():
        if (value := getattr(params, name)) != getattr(default, name) or name in explicit_options:
            selected[api_name] = list(value) if name == "stop" else value
    for name, api_names in _VENDOR_OPTIONS.items():
        if (value := getattr(params, name)) != getattr(default, name) or name in explicit_options:
            selected |= dict.fromkeys(api_names, value)
    return {name: value for name, value in selected.items() if value not in (None, [])}


def list_vendor_options(option_names: Collection[str]) -> list[str]:
    """Which of them are no part of the OpenAI API, by the names that the user knows."""
    return [name for name, api_names in _VENDOR_OPTIONS.items() if api_names[0] in option_names]


def build_body(
    model: str,
    messages: Sequence[Message],
    api_options: Mapping[str, Any],
    rejected: Collection[str],
    *,
    stream: bool,
) -> dict[str, Any]:
    """The arguments of the library's `create`. refused: what this server does not take.

    streams: False asks for the answer in one piece, which the library must not know of: it would read it itself.
    """
    if "max_tokens" in rejected and "max_tokens" in api_options:
        # OpenAI's newer models want it by another name, and refuse this one by naming that.
        api_options = {**api_options, "max_completion_tokens": api_options["max_tokens"]}
    extra_body = {name: value for name, value in api_options.items() if name not in rejected}
    arguments: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role.value, "content": message.text} for message in messages],
        "stream": True,
        "extra_body": extra_body,
    }
    if not stream:
        extra_body["stream"] = False
    elif "stream_options" not in rejected:
        arguments["stream_options"] = {"include_usage": True}
    return arguments
