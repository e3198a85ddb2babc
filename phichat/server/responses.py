"""Documents of the OpenAI API that clients receive."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

from starlette.responses import Response

from phichat import errors
from phichat.errors import ApiError, PhichatError
from phichat.events import TurnFinished
from phichat.sanitize import to_json
from phichat.server.model_provider import ServedModel
from phichat.types import FinishReason

JsonObject = dict[str, Any]

SSE_KEEPALIVE = b": still working\n\n"
"""Comment of server-sent events that keeps a silent connection open."""


_API_ERRORS: Sequence[tuple[type[PhichatError], int, str]] = (
    (errors.ModelNotInstalled, 404, "model_not_found"),
    (errors.ContextOverflow, 400, "context_length_exceeded"),
    (errors.TemplateError, 400, "invalid_value"),
    (errors.UsageError, 400, "invalid_value"),
    (errors.ModelDoesNotFit, 503, "out_of_memory"),
    (PhichatError, 500, "engine_error"),
)
"""Class of an error, HTTP status, and the code that programs look for; the first match counts."""


def encode_json(document: object) -> bytes:
    """Return JSON that is safe to print on a terminal."""
    return to_json(document).encode()


def _encode_sse(document: JsonObject) -> bytes:
    return b"data: " + encode_json(document) + b"\n\n"


def json_response(document: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return the HTTP response with a document."""
    return Response(encode_json(document), status, headers, "application/json")


@dataclass(frozen=True, slots=True)
class CompletionBuilder:
    """Builder of one completion with n replies, as the events of a stream or as one document. include_usage: end the
    stream with token counts."""

    model: str
    n: int
    include_usage: bool
    id: str = field(default_factory=lambda: "chatcmpl-" + secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time()))

    def role_chunks(self) -> bytes:
        """Return the first chunk of every reply."""
        return b"".join(self.delta_chunk(index, role="assistant", content="") for index in range(self.n))

    def delta_chunk(self, index: int, **delta: str) -> bytes:
        """Return a chunk that adds delta to one reply."""
        return self._chunk([_choice_document(index, "delta", delta)])

    def finish_chunk(self, index: int, reply: TurnFinished) -> bytes:
        """Return the end of one reply."""
        return self._chunk([_choice_document(index, "delta", {}, reply)])

    def final_chunks(self, replies: Sequence[TurnFinished]) -> bytes:
        """Return the token counts, if requested, and the end of the stream."""
        return (self._chunk([], _usage_document(replies)) if self.include_usage else b"") + b"data: [DONE]\n\n"

    def _chunk(self, choices: Sequence[JsonObject], usage: JsonObject | None = None) -> bytes:
        document = self._document("chat.completion.chunk", choices)
        return _encode_sse(document | {"usage": usage} if self.include_usage else document)

    def whole_document(self, replies: Sequence[TurnFinished]) -> JsonObject:
        """Return the document of the whole completion."""
        choices = []
        for index, reply in enumerate(replies):
            message: JsonObject = {"role": "assistant", "content": reply.text, "refusal": None}
            if reply.reasoning:
                message["reasoning_content"] = reply.reasoning
            choices.append(_choice_document(index, "message", message, reply))
        return self._document("chat.completion", choices) | {"usage": _usage_document(replies)}

    def _document(self, kind: str, choices: Sequence[JsonObject]) -> JsonObject:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


def _choice_document(index: int, key: str, content: JsonObject, reply: TurnFinished | None = None) -> JsonObject:
    # The API has no word for an answer that the time limit ended.
    reason = None if reply is None else "stop" if reply.finish_reason is FinishReason.STOP else "length"
    return {"index": index, key: content, "logprobs": None, "finish_reason": reason}


def _usage_document(replies: Sequence[TurnFinished]) -> JsonObject:
    # The replies share their prompt.
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
    if isinstance(error, errors.ConfigError):
        next_step = "Run `phichat list` on the machine that serves to see the setting"
        return ApiError("The server's configuration is not valid", next_step, status=500, code="config_error")
    facts = {}
    if isinstance(error, errors.ContextOverflow):
        facts = {"n_prompt_tokens": error.prompt_tokens, "n_ctx": error.n_ctx}
    status, code = next((status, code) for kind, status, code in _API_ERRORS if isinstance(error, kind))
    message, next_step = hide_paths(error.message), hide_paths(error.next_step)
    return ApiError(message, next_step, status=status, code=code, extra_fields=facts)


def _error_document(error: ApiError) -> JsonObject:
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    fields = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    return {"error": fields | dict(error.extra_fields)}


def error_event(error: ApiError) -> bytes:
    """Return the server-sent event for an error."""
    return _encode_sse(_error_document(error))


def error_response(error: ApiError) -> Response:
    """Return the HTTP response for an error."""
    headers = {"cache-control": "no-store"}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return json_response(_error_document(error), error.status, headers)
