"""Errors of a server, and the errors that a user sees for them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

from phichat.config.endpoints import Endpoint, EndpointModel
from phichat.errors import (
    ContextOverflow,
    EndpointAuthError,
    EndpointError,
    EndpointUnreachable,
    ModelNotInstalled,
    PhichatError,
)

_MAX_MESSAGE_CHARS = 200
"""Characters of a server's own message in a sentence of ours."""

_FIX_BASE_URL = "Fix base_url, which often ends in /v1"
_RETRY = "Ask again, or look at the server's log"
_REPHRASE = "Rephrase the prompt"
_CHECK_API = "Check that base_url leads to an OpenAI-compatible API, or ask again"


class RemoteErrorKind(Enum):
    """Failures of a server: the class of the user's error, and templates of its message and next step."""

    CONNECTION_REFUSED = (EndpointUnreachable, "No response from {server}", "Start the server, or fix base_url")
    UNREACHABLE = (EndpointUnreachable, "{server} cannot be reached{detail}", "Check base_url and the network")
    TLS_ERROR = (
        EndpointUnreachable,
        "No secure connection to {server} is possible{detail}",
        "Check that base_url is right and starts with the right scheme (http or https), or trust the server's "
        "certificate via SSL_CERT_FILE",
    )
    CONNECTION_LOST = (EndpointUnreachable, "{server} closed the connection", _RETRY)
    TRUNCATED = (EndpointUnreachable, "{server} cut its answer short", _RETRY)
    TIMEOUT = (
        EndpointUnreachable,
        "{server} sent nothing for {timeout}",
        "Ask again, or raise timeout under [endpoints.{name}]",
    )
    WEB_PAGE = (EndpointError, "{server} answered with a web page", _FIX_BASE_URL)
    BAD_JSON = (EndpointError, "{server} sent data that is not a JSON object", _CHECK_API)
    BAD_STREAM = (EndpointError, "{server} sent something other than a chat completion{detail}", _CHECK_API)
    TOO_LARGE = (EndpointError, "{server} sent more than any answer needs", "Check what runs at base_url")
    CONTENT_FILTER = (EndpointError, "The content filter of {name} ended the answer", _REPHRASE)
    TOOL_CALL = (EndpointError, "{model} called a tool instead of answering", _REPHRASE + ", or use another model")
    ERROR_IN_STREAM = (EndpointError, "{name} reported an error in its answer{message}", "Ask again")
    HTTP_STATUS = (EndpointError, "", "")
    """Described by its status."""

    def __init__(self, error_class: type[EndpointError], message: str, next_step: str) -> None:
        self.error_class, self.message, self.next_step = error_class, message, next_step


@dataclass(eq=False)
class RemoteError(Exception):
    """Failure of a server.

    status: of HTTP, 0 for none. body: the server's error document, parsed where it is JSON.
    retry_after: seconds that the server asks to wait, None for none. detail: a library's own text.
    """

    kind: RemoteErrorKind
    status: int = 0
    body: object = None
    retry_after: float | None = None
    detail: str = ""

    @property
    def is_retryable(self) -> bool:
        """True where the same request may succeed in a moment."""
        if self.kind is RemoteErrorKind.HTTP_STATUS:
            return self.status in (408, 429, 500, 502, 503, 504, 529)
        return self.kind in (RemoteErrorKind.CONNECTION_LOST, RemoteErrorKind.TRUNCATED)

    @property
    def message(self) -> str:
        """Message of the server, "" for none."""
        return _extract_message(self.body)

    @property
    def error_object(self) -> Mapping[str, object]:
        """Error object of the body, empty for none."""
        body = self.body if isinstance(self.body, Mapping) else {}
        error = body.get("error", body)
        return error if isinstance(error, Mapping) else {}


def _extract_message(body: object) -> str:
    """Return the message in an error document, however it is wrapped, or all of anything else."""
    match body:
        case {"error": error} if error:
            return _extract_message(error)
        case {"message": str(message)}:
            return message.strip()
        case {"detail": detail} if detail:
            return _extract_message(detail)
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


def redact_secrets(text: str, endpoint: Endpoint, api_key: str) -> str:
    """Return text without the key and without the values of the endpoint's headers."""
    # Very short values (`X-Team: a`) are not secrets, and would remove parts of ordinary words.
    secrets = [secret for secret in (api_key, *endpoint.headers.values()) if len(secret) >= 4]
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "[key]").replace(json.dumps(secret)[1:-1], "[key]")
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
    """Return (prompt tokens, context in tokens) when the prompt was too long for the server, else None.

    A number that the server does not report is 0.
    """
    kind, status = remote_error.kind, remote_error.status
    if kind not in (RemoteErrorKind.HTTP_STATUS, RemoteErrorKind.ERROR_IN_STREAM) or status in (401, 403, 404, 429):
        return None
    error_object, message = remote_error.error_object, remote_error.message.lower().replace(",", "")
    codes = {str(error_object.get(key)) for key in ("code", "type")}
    if not codes & {"context_length_exceeded", "exceed_context_size_error"} and not (
        status in (0, 400, 413, 422, 500) and _CONTEXT_OVERFLOW.search(message)
    ):
        return None
    tokens = parse_count(error_object.get("n_prompt_tokens")) or _search_number(_PROMPT_SIZE_PATTERNS, message)
    n_ctx = parse_count(error_object.get("n_ctx")) or _search_number(_CONTEXT_SIZE_PATTERNS, message)
    if "max_tokens" in message and tokens and n_ctx and tokens < n_ctx:
        return None  # the prompt fits; the requested answer does not
    return tokens, n_ctx


def parse_count(value: object) -> int:
    """Return a number of tokens that a server reports, 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31 else 0


def _search_number(patterns: Sequence[str], message: str) -> int:
    return next((int(match[1][:12]) for pattern in patterns if (match := re.search(pattern, message))), 0)


_UNSUPPORTED_OPTION = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|extra[_ ](?:inputs|forbidden)|extra inputs|not permitted"
    r"|not allowed|not recognized|additional propert|no such param|invalid (?:param|argument)|cannot be used",
    re.IGNORECASE,
)


def find_rejected_options(remote_error: RemoteError, sent_options: Sequence[str]) -> frozenset[str]:
    """Return which of the sent options the server rejected."""
    if remote_error.kind is not RemoteErrorKind.HTTP_STATUS or remote_error.status not in (400, 422, 501):
        return frozenset()
    body_text = json.dumps(remote_error.body, default=str)
    mentioned = frozenset(name for name in sent_options if re.search(rf"\b{re.escape(name)}\b", body_text))
    return mentioned if _UNSUPPORTED_OPTION.search(body_text) else mentioned & {"max_tokens"}


def to_user_error(
    remote_error: RemoteError, endpoint_model: EndpointModel, api_key: str, idle_timeout_s: float
) -> PhichatError:
    """Return the error that a user sees, without secrets. idle_timeout_s: how long the server may be silent."""
    endpoint, kind = endpoint_model.endpoint, remote_error.kind
    body = remote_error.body
    body_text = body if isinstance(body, str) else json.dumps(body, default=str) if body is not None else ""
    redact = partial(redact_secrets, endpoint=endpoint, api_key=api_key)

    def in_parentheses(text: str) -> str:
        line = " ".join(redact(text).split()).rstrip(".")
        line = line if len(line) <= _MAX_MESSAGE_CHARS else line[:_MAX_MESSAGE_CHARS].rstrip() + "…"
        return f" ({line})" if line else ""

    detail = redact("\n".join(filter(None, (remote_error.detail, body_text[:10_000]))))
    if overflow_sizes := parse_context_overflow(remote_error):
        return ContextOverflow(*overflow_sizes, endpoint.name, detail=detail)
    message = in_parentheses(remote_error.message)
    if kind is RemoteErrorKind.HTTP_STATUS:
        error_class, *texts = _describe_status(remote_error, endpoint_model, message, has_key=bool(api_key))
        return error_class(*texts, detail=detail)
    values = {"server": f"{endpoint.name} ({endpoint.base_url})", "name": endpoint.name, "model": endpoint_model.name}
    values |= {"message": message, "detail": in_parentheses(remote_error.detail), "timeout": f"{idle_timeout_s:g} s"}
    return kind.error_class(kind.message.format(**values), kind.next_step.format(**values), detail=detail)


def _describe_status(
    remote_error: RemoteError, endpoint_model: EndpointModel, message: str, *, has_key: bool
) -> tuple[type[PhichatError], str, str]:
    """Return class, message and next step of the error for an HTTP status."""
    endpoint, status = endpoint_model.endpoint, remote_error.status
    name, variable, wait_s = endpoint.name, endpoint.api_key_env, remote_error.retry_after
    if remote_error.error_object.get("code") == "content_filter":
        return EndpointError, f"The content filter of {name} rejected the prompt", _REPHRASE
    if status in (401, 403):
        problem = f"{name} {'rejected the key' if has_key else 'requires a key'}{message}"
        if has_key:
            source = f"the variable {variable}" if variable else f"api_key_command under [endpoints.{name}]"
            return EndpointAuthError, problem, f"Check the key that comes from {source}"
        if variable:
            return EndpointAuthError, problem, f"Set the variable {variable} to the key"
        return EndpointAuthError, problem, f"Name the variable with the key in api_key_env under [endpoints.{name}]"
    if status == 404 and re.search(r"model|deployment", remote_error.message, re.IGNORECASE):
        problem = f"{name} has no model {endpoint_model.model}{message}"
        return ModelNotInstalled, problem, f"Run `phichat list --endpoint {name}` to see its models"
    if status == 404:
        return EndpointError, f"{name} has nothing at {endpoint.base_url}", _FIX_BASE_URL
    if 300 <= status < 400:
        return EndpointError, f"{name} redirects to another address", "Use the final address as base_url"
    if status == 429:
        next_step = f"Ask again in {wait_s:,.0f} s" if wait_s else "Ask again later"
        return EndpointError, f"{name} accepts no more requests at the moment{message}", next_step
    if status == 413:
        return EndpointError, f"{name} rejected the request as too large{message}", "Shorten the prompt"
    if status >= 500:
        problem = f"{name} failed with status {status}{message}"
        return EndpointError, problem, "Ask again later, or look at the server's log"
    problem = f"{name} rejected the request with status {status}{message}"
    return EndpointError, problem, "Change what the server objects to, or look at its log"
