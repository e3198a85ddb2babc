"""What clients are sent: the documents of the OpenAI API, and what each error means as one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Any

from phichat.errors import (
    ConfigError,
    ContextOverflow,
    ModelDoesNotFit,
    ModelNotInstalled,
    PhichatError,
    RequestRefused,
    TemplateError,
    UsageError,
)
from phichat.events import TurnFinished
from phichat.messages import FinishReason
from phichat.server.menu import Offer
from phichat.terminal import to_json

Document = dict[str, Any]

DONE = b"data: [DONE]\n\n"
ALIVE = b": still working\n\n"
"""A comment of server-sent events: nobody reads it, but connections stay open by it."""


def encoded(document: object) -> bytes:
    """As JSON that steers no terminal, should somebody look at it in one."""
    return to_json(document).encode()


def frame(document: Document) -> bytes:
    """As one server-sent event."""
    return b"data: " + encoded(document) + b"\n\n"


def new_id() -> str:
    """The name of a completion."""
    return "chatcmpl-" + secrets.token_hex(12)


@dataclass(frozen=True, slots=True)
class Chunks:
    """The documents of one streamed completion of so many replies. tells_usage: its last one counts tokens."""

    model: str
    replies: int
    tells_usage: bool
    id: str = field(default_factory=new_id)
    created: int = field(default_factory=lambda: int(time()))

    def first(self) -> bytes:
        """Who speaks."""
        return b"".join(self._choice({"role": "assistant", "content": ""}, at) for at in range(self.replies))

    def text(self, text: str) -> bytes:
        """A piece of the answer."""
        return self._choice({"content": text})

    def reasoning(self, text: str) -> bytes:
        """A piece of what is thought before it."""
        return self._choice({"reasoning_content": text})

    def sample(self, number: int, reply: TurnFinished) -> bytes:
        """One of several replies, whole."""
        reasoning = self._choice({"reasoning_content": reply.reasoning}, number) if reply.reasoning else b""
        text = self._choice({"content": reply.text}, number) if reply.text else b""
        return reasoning + text + self._choice({}, number, finish_reason(reply.finish_reason))

    def end(self, reply: TurnFinished) -> bytes:
        """The end of the only reply."""
        return self._choice({}, 0, finish_reason(reply.finish_reason))

    def last(self, replies: Sequence[TurnFinished]) -> bytes:
        """The end of all, and what they took."""
        return (frame(self._document([], counted(replies))) if self.tells_usage else b"") + DONE

    def _choice(self, delta: Document, index: int = 0, ended: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": ended}
        return frame(self._document([choice], None))

    def _document(self, choices: Sequence[Document], usage: Document | None) -> Document:
        document: Document = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        return {**document, "usage": usage} if self.tells_usage else document


def completion(model: str, replies: Sequence[TurnFinished]) -> Document:
    """A whole completion."""
    return {
        "id": new_id(),
        "object": "chat.completion",
        "created": int(time()),
        "model": model,
        "choices": [_whole(index, reply) for index, reply in enumerate(replies)],
        "usage": counted(replies),
    }


def _whole(index: int, reply: TurnFinished) -> Document:
    message: Document = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason(reply.finish_reason)}


def finish_reason(reason: FinishReason) -> str:
    """In the words of the API, which has none for an answer that the server's clock has ended."""
    return "stop" if reason is FinishReason.STOP else "length"


def counted(replies: Sequence[TurnFinished]) -> Document:
    """Tokens; the replies share their prompt."""
    prompt, completed = replies[0].usage, sum(reply.usage.completion_tokens for reply in replies)
    return {
        "prompt_tokens": prompt.prompt_tokens,
        "completion_tokens": completed,
        "total_tokens": prompt.prompt_tokens + completed,
        "prompt_tokens_details": {"cached_tokens": prompt.cached_tokens},
    }


def model_document(offer: Offer) -> Document:
    """A model, with its context where that is known."""
    document: Document = {"id": offer.name, "object": "model", "created": offer.created, "owned_by": "phichat"}
    return {**document, "context_length": offer.n_ctx} if offer.n_ctx else document


def refused(error: PhichatError, without_paths: Callable[[str], str] = str) -> RequestRefused:
    """An error as a client is told of it."""
    facts = {}
    match error:
        case RequestRefused():
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
            wrong = "A setting on the machine that serves cannot be used"
            return RequestRefused(wrong, "`phichat list` says there which one", status=500, code="config_error")
        case _:
            status, code = 500, "engine_error"
    message, next_step = without_paths(error.message), without_paths(error.next_step)
    return RequestRefused(message, next_step, status=status, code=code, facts=facts)


def error_document(error: RequestRefused) -> Document:
    """An error."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {"error": {"message": str(error), "type": kind, "param": error.param, "code": error.code, **error.facts}}
