"""What clients are sent: the documents of the OpenAI API, and what each error means as one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

from phichat.errors import (
    ApiError,
    ConfigError,
    ContextOverflow,
    ModelDoesNotFit,
    ModelNotInstalled,
    PhichatError,
    TemplateError,
    UsageError,
)
from phichat.events import TurnFinished
from phichat.sanitize import to_json
from phichat.server.model_provider import ServedModel
from phichat.types import FinishReason

JsonObject = dict[str, Any]

SSE_DONE = b"data: [DONE]\n\n"
SSE_KEEPALIVE = b": still working\n\n"
"""A comment of server-sent events: nobody reads it, but connections stay open by it."""


def encode_json(document: object) -> bytes:
    """As JSON that steers no terminal, should somebody look at it in one."""
    return to_json(document).encode()


def encode_sse(document: JsonObject) -> bytes:
    """As one server-sent event."""
    return b"data: " + encode_json(document) + b"\n\n"


def new_completion_id() -> str:
    """The name of a completion."""
    return "chatcmpl-" + secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class ChunkBuilder:
    """The documents of one streamed completion of so many replies. tells_usage: its last one counts tokens."""

    model: str
    n: int
    include_usage: bool
    id: str = field(default_factory=new_completion_id)
    created: int = field(default_factory=lambda: int(time()))

    def role_chunks(self) -> bytes:
        """Who speaks."""
        return b"".join(self._choice_chunk({"role": "assistant", "content": ""}, at) for at in range(self.n))

    def text_chunk(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._choice_chunk({"content": text})

    def reasoning_chunk(self, text: str) -> bytes:
        """A piece of what is thought before it."""
        return self._choice_chunk({"reasoning_content": text})

    def sample_chunks(self, index: int, reply: TurnFinished) -> bytes:
        """One of several replies, whole."""
        reasoning = self._choice_chunk({"reasoning_content": reply.reasoning}, index) if reply.reasoning else b""
        text = self._choice_chunk({"content": reply.text}, index) if reply.text else b""
        return reasoning + text + self._choice_chunk({}, index, to_api_finish_reason(reply.finish_reason))

    def finish_chunk(self, reply: TurnFinished) -> bytes:
        """The end of the only reply."""
        return self._choice_chunk({}, 0, to_api_finish_reason(reply.finish_reason))

    def final_chunks(self, replies: Sequence[TurnFinished]) -> bytes:
        """The end of all, and what they took."""
        return (encode_sse(self._chunk_document([], usage_document(replies))) if self.include_usage else b"") + SSE_DONE

    def _choice_chunk(self, delta: JsonObject, index: int = 0, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return encode_sse(self._chunk_document([choice], None))

    def _chunk_document(self, choices: Sequence[JsonObject], usage: JsonObject | None) -> JsonObject:
        document: JsonObject = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return {**document, "usage": usage} if self.include_usage else document


def completion_document(model: str, replies: Sequence[TurnFinished]) -> JsonObject:
    """A whole completion."""
    return {
        "id": new_completion_id(),
        "object": "chat.completion",
        "created": int(time()),
        "model": model,
        "choices": [_choice_document(index, reply) for index, reply in enumerate(replies)],
        "usage": usage_document(replies),
    }


def _choice_document(index: int, reply: TurnFinished) -> JsonObject:
    message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    return {
        "index": index,
        "message": message,
        "logprobs": None,
        "finish_reason": to_api_finish_reason(reply.finish_reason),
    }


def to_api_finish_reason(reason: FinishReason) -> str:
    """In the words of the API, which has none for an answer that the server's clock has ended."""
    return "stop" if reason is FinishReason.STOP else "length"


def usage_document(replies: Sequence[TurnFinished]) -> JsonObject:
    """Tokens; the replies share their prompt."""
    first_usage, completion_tokens = replies[0].usage, sum(reply.usage.completion_tokens for reply in replies)
    return {
        "prompt_tokens": first_usage.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": first_usage.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": first_usage.cached_tokens},
    }


def model_document(model: ServedModel) -> JsonObject:
    """A model, with its context where that is known."""
    document: JsonObject = {"id": model.name, "object": "model", "created": model.created, "owned_by": "phichat"}
    return {**document, "context_length": model.n_ctx} if model.n_ctx else document


def to_api_error(error: PhichatError, hide_paths: Callable[[str], str] = str) -> ApiError:
    """An error as a client is told of it."""
    facts = {}
    match error:
        case ApiError():
            return error
        case ModelNotInstalled():
            status, code = 404, "model_not_found"
        case ContextOverflow():
            status, code = 400, "context_length_exceeded"
            facts = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.n_ctx}
        case TemplateError() | UsageError():
            status, code = 400, "invalid_value"
        case ModelDoesNotFit():
            status, code = 503, "out_of_memory"
        case ConfigError():
            config_message = "A setting on the machine that serves cannot be used"
            return ApiError(config_message, "`phichat list` says there which one", status=500, code="config_error")
        case _:
            status, code = 500, "engine_error"
    message, next_step = hide_paths(error.message), hide_paths(error.next_step)
    return ApiError(message, next_step, status=status, code=code, extra_fields=facts)


def error_document(error: ApiError) -> JsonObject:
    """An error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {
        "error": {"message": str(error), "type": kind, "param": error.param, "code": error.code, **error.extra_fields}
    }
