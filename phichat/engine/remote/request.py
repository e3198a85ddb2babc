"""What is asked of a server, and what of the user's options it can be asked for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from phichat.messages import GenerationParams, Message

_OF_OPENAI = {
    "temperature": "temperature",
    "top_p": "top_p",
    "seed": "seed",
    "max_tokens": "max_tokens",
    "stop": "stop",
}
_OF_OTHERS = {
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp's word, and vLLM's
    "repeat_last_n": ("repeat_last_n",),
}
OF_THE_SERVER = ("ctx_size", "n_gpu_layers", "cache_type_k", "cache_type_v", "threads", "draft")
"""Options that a server was started with."""


def options(params: GenerationParams, given: Collection[str]) -> dict[str, Any]:
    """The options as the API spells them: what is not the default, or has been set to it (given).

    What nobody has set is left to the server, which knows its model better than a default does.
    """
    default = GenerationParams()
    wanted: dict[str, Any] = {}
    for name, spelled in _OF_OPENAI.items():
        if (value := getattr(params, name)) != getattr(default, name) or name in given:
            wanted[spelled] = list(value) if name == "stop" else value
    for name, spellings in _OF_OTHERS.items():
        if (value := getattr(params, name)) != getattr(default, name) or name in given:
            wanted |= dict.fromkeys(spellings, value)
    return {name: value for name, value in wanted.items() if value not in (None, [])}


def beyond_the_api(wanted: Collection[str]) -> list[str]:
    """Which of them are no part of the OpenAI API, by the names that the user knows."""
    return [name for name, spellings in _OF_OTHERS.items() if spellings[0] in wanted]


def body(
    model: str,
    messages: Sequence[Message],
    wanted: Mapping[str, Any],
    refused: Collection[str],
    *,
    streams: bool,
) -> dict[str, Any]:
    """The arguments of the library's `create`. refused: what this server does not take.

    streams: False asks for the answer in one piece, which the library must not know of: it would read it itself.
    """
    if "max_tokens" in refused and "max_tokens" in wanted:
        # OpenAI's newer models want it by another name, and refuse this one by naming that.
        wanted = {**wanted, "max_completion_tokens": wanted["max_tokens"]}
    sent = {name: value for name, value in wanted.items() if name not in refused}
    whole: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role.value, "content": message.text} for message in messages],
        "stream": True,
        "extra_body": sent,
    }
    if not streams:
        sent["stream"] = False
    elif "stream_options" not in refused:
        whole["stream_options"] = {"include_usage": True}
    return whole
