"""Documents of the OpenAI API that clients receive."""

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
"""Comment of server-sent events that keeps a silent connection open."""


_API_ERRORS: Sequence[tuple[type[PhichatError], int, str]] = (
    (ModelNotInstalled, 404, "model_not_found"),
    (ContextOverflow, 400, "context_length_exceeded"),
    (TemplateError, 400, "invalid_value"),
    (UsageError, 400, "invalid_value"),
    (ModelDoesNotFit, 503, "out_of_memory"),
    (PhichatError, 500, "engine_error"),
)
"""Class of an error, HTTP status, and the code that programs look for; the first match counts."""


def encode_json(document: object) -> bytes:
    """Return JSON that is safe to print on a terminal."""
    return to_json(document).encode()


def encode_sse(document: JsonObject) -> bytes:
    """Return one server-sent event."""
    return b"data: " + encode_json(document) + b"\n\n"


def _new_completion_id() -> str:
    return "chatcmpl-" + secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class ChunkBuilder:
    """Builder of the events of one streamed completion with n replies. include_usage: end with token counts."""

    model: str
    n: int
    include_usage: bool
    id: str = field(default_factory=_new_completion_id)
    created: int = field(default_factory=lambda: int(time()))

    def role_chunks(self) -> bytes:
        """Return the first chunk of every reply."""
        return b"".join(self.delta_chunk(index, role="assistant", content="") for index in range(self.n))

    def delta_chunk(self, index: int, finish_reason: str | None = None, **delta: str) -> bytes:
        """Return a chunk that adds delta to one reply, or ends it."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return encode_sse(self._document([choice], None))

    def finish_chunk(self, index: int, reply: TurnFinished) -> bytes:
        """Return the end of one reply."""
        return self.delta_chunk(index, to_api_finish_reason(reply.finish_reason))

    def final_chunks(self, replies: Sequence[TurnFinished]) -> bytes:
        """Return the token counts, if requested, and the end of the stream."""
        return (encode_sse(self._document([], usage_document(replies))) if self.include_usage else b"") + SSE_DONE

    def _document(self, choices: Sequence[JsonObject], usage: JsonObject | None) -> JsonObject:
        document: JsonObject = {"id": self.id, "object": "chat.completion.chunk", "created": self.created}
        document |= {"model": self.model, "choices": choices}
        return document | {"usage": usage} if self.include_usage else document


def completion_document(model: str, replies: Sequence[TurnFinished]) -> JsonObject:
    """Return a whole completion."""
    return {
        "id": _new_completion_id(),
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
    finish_reason = to_api_finish_reason(reply.finish_reason)
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def to_api_finish_reason(reason: FinishReason) -> str:
    """Return the API's word; it has none for an answer that the time limit ended."""
    return "stop" if reason is FinishReason.STOP else "length"


def usage_document(replies: Sequence[TurnFinished]) -> JsonObject:
    """Return the token counts of replies that share their prompt."""
    first_usage, completion_tokens = replies[0].usage, sum(reply.usage.completion_tokens for reply in replies)
    return {
        "prompt_tokens": first_usage.prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": first_usage.prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": first_usage.cached_tokens},
    }


def model_document(model: ServedModel) -> JsonObject:
    """Return a model, with its context in tokens where that is known."""
    document: JsonObject = {"id": model.name, "object": "model", "created": model.created, "owned_by": "phichat"}
    return {**document, "context_length": model.n_ctx} if model.n_ctx else document


def to_api_error(error: PhichatError, hide_paths: Callable[[str], str] = str) -> ApiError:
    """Return an error as clients see it. hide_paths: takes the paths of files out of a text."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ConfigError):
        next_step = "Run `phichat list` on the machine that serves to see the setting"
        return ApiError("The server's configuration is not valid", next_step, status=500, code="config_error")
    facts = {}
    if isinstance(error, ContextOverflow):
        facts = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.n_ctx}
    status, code = next((status, code) for kind, status, code in _API_ERRORS if isinstance(error, kind))
    message, next_step = hide_paths(error.message), hide_paths(error.next_step)
    return ApiError(message, next_step, status=status, code=code, extra_fields=facts)


def error_document(error: ApiError) -> JsonObject:
    """Return the document of an error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    fields = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return {"error": fields | dict(error.extra_fields)}
