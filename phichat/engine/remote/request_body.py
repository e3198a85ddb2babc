"""Bodies of chat completion requests, and the user's options as the API names them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from phichat.types import Message, SamplingParams

_OPENAI_OPTIONS = {name: (name,) for name in ("temperature", "top_p", "seed", "max_tokens", "stop")}
VENDOR_OPTIONS = {
    "top_k": ("top_k",),
    "min_p": ("min_p",),
    "repeat_penalty": ("repeat_penalty", "repetition_penalty"),  # llama.cpp's name, and vLLM's
    "repeat_last_n": ("repeat_last_n",),
}
"""Options that are not part of the OpenAI API: the names that users know, and those in the API."""

SERVER_SIDE_OPTIONS = ("ctx_size", "n_gpu_layers", "cache_type_k", "cache_type_v", "threads", "draft")
"""Options that only the start of the server can set."""


def build_options(params: SamplingParams, explicit_options: Collection[str]) -> dict[str, Any]:
    """Return the options that differ from the default or were set explicitly, by their names in the API.

    The rest is left to the server, which knows its model better than a default does.
    """
    default = SamplingParams()
    selected: dict[str, Any] = {}
    for name, api_names in (_OPENAI_OPTIONS | VENDOR_OPTIONS).items():
        value = getattr(params, name)
        if value not in (None, ()) and (value != getattr(default, name) or name in explicit_options):
            selected |= dict.fromkeys(api_names, value)
    return selected


def build_body(
    model: str, messages: Sequence[Message], api_options: Mapping[str, Any], rejected: Collection[str], *, stream: bool
) -> dict[str, Any]:
    """Return the JSON body of a request. rejected: names of fields that the server does not accept."""
    if "max_tokens" in rejected and "max_tokens" in api_options:
        # OpenAI's newer models want it by another name, and refuse this one by naming that.
        api_options = {**api_options, "max_completion_tokens": api_options["max_tokens"]}
    documents = [{"role": message.role.value, "content": message.text} for message in messages]
    body: dict[str, Any] = {"model": model, "messages": documents, "stream": stream, **api_options}
    if stream:
        body["stream_options"] = {"include_usage": True}
    return {name: value for name, value in body.items() if name not in rejected}
