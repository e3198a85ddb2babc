"""What goes wrong with a server, as one sentence and the next step."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, assert_never

from phichat.config.endpoints import EndpointModel
from phichat.errors import (
    EndpointAuthError,
    EndpointError,
    EndpointUnreachable,
    ModelNotInstalled,
    PhichatError,
    RemoteContextOverflow,
)

_MAX_MESSAGE_CHARS = 200
"""Characters of a server's own words that stand in a sentence."""


class RemoteErrorKind(Enum):
    """What happened."""

    CONNECTION_REFUSED = auto()
    UNREACHABLE = auto()
    TLS_ERROR = auto()
    CONNECTION_LOST = auto()
    TIMEOUT = auto()
    HTTP_STATUS = auto()
    ERROR_IN_STREAM = auto()
    """An error in the middle of an answer."""
    WEB_PAGE = auto()
    BAD_JSON = auto()
    BAD_STREAM = auto()
    TOO_LARGE = auto()
    TRUNCATED = auto()
    CONTENT_FILTER = auto()
    TOOL_CALL = auto()


@dataclass(eq=False)
class RemoteError(Exception):
    """status: of HTTP, 0 where there was none. body: what the server said, parsed where it is JSON.
    retry_after: seconds that it asks to wait, None when it does not. detail: what a library said."""

    kind: RemoteErrorKind
    status: int = 0
    body: object = None
    retry_after: float | None = None
    detail: str = ""

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may well be answered in a moment."""
        if self.kind is RemoteErrorKind.HTTP_STATUS:
            return self.status in (408, 429, 500, 502, 503, 504, 529)
        return self.kind in (RemoteErrorKind.CONNECTION_LOST, RemoteErrorKind.TRUNCATED)

    @property
    def message(self) -> str:
        """The server's own words."""
        return extract_message(self.body)

    @property
    def error_object(self) -> Mapping[str, object]:
        """The error document, empty where there is none."""
        body = self.body if isinstance(self.body, Mapping) else {}
        error = body.get("error", body)
        return error if isinstance(error, Mapping) else {}


def extract_message(body: object) -> str:
    """The message in an error document, however it is wrapped; the beginning of anything else."""
    match body:
        case {"error": error} if error:
            return extract_message(error)
        case {"message": str(message)}:
            return message.strip()
        case {"detail": detail} if detail:
            return extract_message(detail)
        case [{"msg": str(message), **fields}, *_]:
            location = fields.get("loc")
            names = [str(name) for name in location if name != "body"] if isinstance(location, list) else []
            return f"{'.'.join(names)}: {message}" if names else message
        case str():
            return "" if body.lstrip()[:1] == "<" else body.strip()
        case None:
            return ""
        case _:
            return json.dumps(body, ensure_ascii=False)


class SecretRedactor:
    """Takes what is secret out of a text.

    secrets: the key, and the values of the user's own headers.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        # Very short values (`X-Team: a`) are no secrets, and would take ordinary words along.
        self._secrets = sorted((secret for secret in secrets if len(secret) >= 4), key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[key]")
            escaped = json.dumps(secret)[1:-1]
            text = text.replace(escaped, "[key]")
        return text


_CONTEXT_OVERFLOW = re.compile(
    r"context[ _](?:length|size|window)|maximum context|exceed\w* (?:the )?(?:available )?context"
    r"|prompt is too long|too many (?:input )?tokens|n_ctx|input (?:is|length) too long"
)
_CONTEXT_SIZE_PATTERNS = (
    r"maximum (?:context length|input length|number of tokens) (?:is|of) (\d+)",
    r"n_ctx:? \(?(\d+)",
    r"context (?:size|length|window) (?:is|of)(?: only)? \(?(\d+)",
)
_PROMPT_SIZE_PATTERNS = (
    r"\((\d+) in the messages",
    r"\((\d+) tokens\)",
    r"(?:resulted in|contains at least|has|passed) (\d+) (?:input )?tokens",
    r"prompt (?:has|of|is|contains) (\d+)",
    r"requested (?:about )?(\d+) tokens",
)


def parse_context_overflow(remote_error: RemoteError) -> tuple[int, int] | None:
    """(prompt tokens, context) when the prompt was refused for its length, 0 for what the server does not tell."""
    if remote_error.kind not in (
        RemoteErrorKind.HTTP_STATUS,
        RemoteErrorKind.ERROR_IN_STREAM,
    ) or remote_error.status in (401, 403, 404, 429):
        return None
    error_object = remote_error.error_object
    message = remote_error.message.lower().replace(",", "")
    error_codes = {"context_length_exceeded", "exceed_context_size_error"} & {
        str(error_object.get(key)) for key in ("code", "type")
    }
    if not error_codes and not (remote_error.status in (0, 400, 413, 422, 500) and _CONTEXT_OVERFLOW.search(message)):
        return None
    tokens, n_ctx = (
        _parse_positive_int(error_object.get("n_prompt_tokens")),
        _parse_positive_int(error_object.get("n_ctx")),
    )
    tokens, n_ctx = (
        tokens or _search_number(_PROMPT_SIZE_PATTERNS, message),
        n_ctx or _search_number(_CONTEXT_SIZE_PATTERNS, message),
    )
    if "max_tokens" in message and tokens and n_ctx and tokens < n_ctx:
        return None  # the prompt has room; what is asked for behind it has not
    return tokens, n_ctx


def _parse_positive_int(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _search_number(patterns: Sequence[str], message: str) -> int:
    return next((int(match[1][:12]) for pattern in patterns if (match := re.search(pattern, message))), 0)


_UNSUPPORTED_OPTION = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|extra[_ ](?:inputs|forbidden)|extra inputs|not permitted"
    r"|not allowed|not recognized|additional propert|no such param|invalid (?:param|argument)|cannot be used",
    re.IGNORECASE,
)


def find_rejected_options(remote_error: RemoteError, sent_options: Sequence[str]) -> frozenset[str]:
    """Which of the options that were sent the server says it does not know."""
    if remote_error.kind is not RemoteErrorKind.HTTP_STATUS or remote_error.status not in (400, 422, 501):
        return frozenset()
    body_text = json.dumps(remote_error.body, default=str)
    mentioned_options = frozenset(name for name in sent_options if re.search(rf"\b{re.escape(name)}\b", body_text))
    return mentioned_options if _UNSUPPORTED_OPTION.search(body_text) else mentioned_options & {"max_tokens"}


def to_user_error(
    remote_error: RemoteError, endpoint_model: EndpointModel, api_key: str, idle_timeout_s: float = 0.0
) -> PhichatError:
    """The error that a user sees. key: what was sent, "" for none. waited_s: how long the server may be silent."""
    redact = SecretRedactor([api_key, *endpoint_model.endpoint.headers.values()])
    name, base_url = endpoint_model.endpoint.name, endpoint_model.endpoint.base_url
    server_message = _shorten(redact(remote_error.message))
    detail = redact("\n".join(filter(None, (remote_error.detail, _dump_body(remote_error.body)))))
    endpoint_text = f"{name} ({base_url})"
    message_suffix = f" ({server_message})" if server_message else ""

    def make_error(kind: type[EndpointError], message: str, next_step: str) -> PhichatError:
        return kind(message, next_step, detail=detail)

    if overflow_sizes := parse_context_overflow(remote_error):
        return RemoteContextOverflow(name, *overflow_sizes, detail=detail)
    match remote_error.kind:
        case RemoteErrorKind.CONNECTION_REFUSED:
            return make_error(
                EndpointUnreachable, f"Nothing answers at {endpoint_text}", "start the server, or mend its base_url"
            )
        case RemoteErrorKind.UNREACHABLE:
            return make_error(
                EndpointUnreachable,
                f"{endpoint_text} cannot be reached{_detail_suffix(remote_error, redact)}",
                "check base_url and the network",
            )
        case RemoteErrorKind.TLS_ERROR:
            return make_error(
                EndpointUnreachable,
                f"No secure connection to {endpoint_text} can be made{_detail_suffix(remote_error, redact)}",
                "check that base_url is right and begins as the server speaks (http or https), or trust its "
                "certificate by SSL_CERT_FILE",
            )
        case RemoteErrorKind.CONNECTION_LOST:
            return make_error(
                EndpointUnreachable,
                f"{endpoint_text} has closed the connection",
                "ask again, or look at the server's log",
            )
        case RemoteErrorKind.TRUNCATED:
            return make_error(
                EndpointUnreachable,
                f"{endpoint_text} has ended its answer before it was complete",
                "ask again, or look at the server's log",
            )
        case RemoteErrorKind.TIMEOUT:
            return make_error(
                EndpointUnreachable,
                f"{endpoint_text} has said nothing for {idle_timeout_s:g} s",
                f"ask again, or raise timeout under [endpoints.{name}]",
            )
        case RemoteErrorKind.WEB_PAGE:
            return make_error(
                EndpointError, f"{endpoint_text} answers with a web page", "mend base_url, which often ends in /v1"
            )
        case RemoteErrorKind.BAD_JSON | RemoteErrorKind.BAD_STREAM:
            return make_error(
                EndpointError,
                f"{endpoint_text} answers with something that is no chat completion{_detail_suffix(remote_error, redact)}",
                "check that base_url leads to an OpenAI-compatible API, or ask again",
            )
        case RemoteErrorKind.TOO_LARGE:
            return make_error(
                EndpointError, f"{endpoint_text} sends more than any answer takes", "check what is at base_url"
            )
        case RemoteErrorKind.CONTENT_FILTER:
            return make_error(EndpointError, f"The content filter of {name} has ended the answer", "put it another way")
        case RemoteErrorKind.HTTP_STATUS if remote_error.error_object.get("code") == "content_filter":
            return make_error(
                EndpointError, f"The content filter of {name} does not take the prompt", "put it another way"
            )
        case RemoteErrorKind.TOOL_CALL:
            return make_error(
                EndpointError,
                f"{endpoint_model.name} calls a tool instead of answering",
                "put it another way, or use another model",
            )
        case RemoteErrorKind.ERROR_IN_STREAM:
            return make_error(EndpointError, f"{name} reports an error in its answer{message_suffix}", "ask again")
        case RemoteErrorKind.HTTP_STATUS:
            return _from_status(remote_error, endpoint_model, message_suffix, detail, has_key=bool(api_key))
        case _:
            assert_never(remote_error.kind)


def _from_status(
    remote_error: RemoteError, endpoint_model: EndpointModel, message_suffix: str, detail: str, *, has_key: bool
) -> PhichatError:
    name, endpoint, status = endpoint_model.endpoint.name, endpoint_model.endpoint, remote_error.status
    if status in (401, 403):
        variable = endpoint.api_key_env
        if has_key and variable:
            next_step = f"check what the variable {variable} holds"
        elif has_key:
            next_step = f"check what api_key_command under [endpoints.{name}] gives"
        elif variable:
            next_step = f"set the variable {variable} to the key"
        else:
            next_step = f"name the variable that holds the key by api_key_env under [endpoints.{name}]"
        problem = "does not take the key" if has_key else "wants a key"
        return EndpointAuthError(f"{name} {problem}{message_suffix}", next_step, detail=detail)
    if status == 404 and remote_error.message and re.search(r"model|deployment", remote_error.message, re.IGNORECASE):
        return ModelNotInstalled(
            f"{name} has no model {endpoint_model.model}{message_suffix}",
            f"See `phichat list --endpoint {name}`",
            detail=detail,
        )
    if status == 404:
        message, next_step = f"{name} has nothing at {endpoint.base_url}", "mend base_url, which often ends in /v1"
    elif 300 <= status < 400:
        message, next_step = f"{name} sends on to another address", "put the address that answers into base_url"
    elif status == 429:
        wait = remote_error.retry_after
        message = f"{name} takes no more requests now{message_suffix}"
        next_step = f"ask again in {wait:,.0f} s" if wait else "ask again later"
    elif status == 413:
        message, next_step = f"{name} does not take so large a request{message_suffix}", "shorten the prompt"
    elif status >= 500:
        message, next_step = (
            f"{name} fails with status {status}{message_suffix}",
            "ask again later, or look at the server's log",
        )
    else:
        message, next_step = f"{name} refuses the request with status {status}{message_suffix}", "change what it names"
    return EndpointError(message, next_step, detail=detail)


def _detail_suffix(remote_error: RemoteError, redact: SecretRedactor) -> str:
    return f" ({_shorten(redact(remote_error.detail))})" if remote_error.detail else ""


def _shorten(text: str) -> str:
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _MAX_MESSAGE_CHARS else line[:_MAX_MESSAGE_CHARS].rstrip() + "…"


def _dump_body(body: Any) -> str:
    text = body if isinstance(body, str) else json.dumps(body, default=str) if body is not None else ""
    return text[:10_000]
