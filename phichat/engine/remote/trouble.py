"""What goes wrong with a server, as one sentence and the next step."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, assert_never

from phichat.endpoints import Served
from phichat.errors import (
    EndpointDenied,
    EndpointError,
    EndpointUnreachable,
    ModelNotInstalled,
    PhichatError,
    ServedContextOverflow,
)

_SHOWN = 200
"""Characters of a server's own words that stand in a sentence."""


class Kind(Enum):
    """What happened."""

    REFUSED = auto()
    UNREACHABLE = auto()
    TLS = auto()
    LOST = auto()
    SILENT = auto()
    STATUS = auto()
    SAID = auto()
    """An error in the middle of an answer."""
    WEB_PAGE = auto()
    BAD_JSON = auto()
    BAD_STREAM = auto()
    HUGE = auto()
    CUT = auto()
    FILTERED = auto()
    TOOLS = auto()


@dataclass(eq=False)
class Trouble(Exception):
    """status: of HTTP, 0 where there was none. body: what the server said, parsed where it is JSON.
    retry_after: seconds that it asks to wait, None when it does not. detail: what a library said."""

    kind: Kind
    status: int = 0
    body: object = None
    retry_after: float | None = None
    detail: str = ""

    @property
    def is_passing(self) -> bool:
        """Whether the same request may well be answered in a moment."""
        if self.kind is Kind.STATUS:
            return self.status in (408, 429, 500, 502, 503, 504, 529)
        return self.kind in (Kind.LOST, Kind.CUT)

    @property
    def said(self) -> str:
        """The server's own words."""
        return message_of(self.body)

    @property
    def error(self) -> Mapping[str, object]:
        """The error document, empty where there is none."""
        body = self.body if isinstance(self.body, Mapping) else {}
        error = body.get("error", body)
        return error if isinstance(error, Mapping) else {}


def message_of(body: object) -> str:
    """The message in an error document, however it is wrapped; the beginning of anything else."""
    match body:
        case {"error": error} if error:
            return message_of(error)
        case {"message": str(message)}:
            return message.strip()
        case {"detail": detail} if detail:
            return message_of(detail)
        case [{"msg": str(message), **rest}, *_]:
            where = rest.get("loc")
            names = [str(name) for name in where if name != "body"] if isinstance(where, list) else []
            return f"{'.'.join(names)}: {message}" if names else message
        case str():
            return "" if body.lstrip()[:1] == "<" else body.strip()
        case None:
            return ""
        case _:
            return json.dumps(body, ensure_ascii=False)


class Scrubber:
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


_OVERFLOW = re.compile(
    r"context[ _](?:length|size|window)|maximum context|exceed\w* (?:the )?(?:available )?context"
    r"|prompt is too long|too many (?:input )?tokens|n_ctx|input (?:is|length) too long"
)
_LIMITS = (
    r"maximum (?:context length|input length|number of tokens) (?:is|of) (\d+)",
    r"n_ctx:? \(?(\d+)",
    r"context (?:size|length|window) (?:is|of)(?: only)? \(?(\d+)",
)
_PROMPTS = (
    r"\((\d+) in the messages",
    r"\((\d+) tokens\)",
    r"(?:resulted in|contains at least|has|passed) (\d+) (?:input )?tokens",
    r"prompt (?:has|of|is|contains) (\d+)",
    r"requested (?:about )?(\d+) tokens",
)


def overflow(trouble: Trouble) -> tuple[int, int] | None:
    """(prompt tokens, context) when the prompt was refused for its length, 0 for what the server does not tell."""
    if trouble.kind not in (Kind.STATUS, Kind.SAID) or trouble.status in (401, 403, 404, 429):
        return None
    error = trouble.error
    said = trouble.said.lower().replace(",", "")
    named = {"context_length_exceeded", "exceed_context_size_error"} & {str(error.get(key)) for key in ("code", "type")}
    if not named and not (trouble.status in (0, 400, 413, 422, 500) and _OVERFLOW.search(said)):
        return None
    tokens, n_ctx = _number(error.get("n_prompt_tokens")), _number(error.get("n_ctx"))
    tokens, n_ctx = tokens or _found(_PROMPTS, said), n_ctx or _found(_LIMITS, said)
    if "max_tokens" in said and tokens and n_ctx and tokens < n_ctx:
        return None  # the prompt has room; what is asked for behind it has not
    return tokens, n_ctx


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _found(patterns: Sequence[str], said: str) -> int:
    return next((int(hit[1][:12]) for pattern in patterns if (hit := re.search(pattern, said))), 0)


_NOT_TAKEN = re.compile(
    r"unsupported|not support|unrecognized|unknown|unexpected|extra[_ ](?:inputs|forbidden)|extra inputs|not permitted"
    r"|not allowed|not recognized|additional propert|no such param|invalid (?:param|argument)|cannot be used",
    re.IGNORECASE,
)


def refused_options(trouble: Trouble, sent: Sequence[str]) -> frozenset[str]:
    """Which of the options that were sent the server says it does not know."""
    if trouble.kind is not Kind.STATUS or trouble.status not in (400, 422, 501):
        return frozenset()
    said = json.dumps(trouble.body, default=str)
    named = frozenset(name for name in sent if re.search(rf"\b{re.escape(name)}\b", said))
    return named if _NOT_TAKEN.search(said) else named & {"max_tokens"}


def explain(trouble: Trouble, model: Served, key: str, waited_s: float = 0.0) -> PhichatError:
    """The error that a user sees. key: what was sent, "" for none. waited_s: how long the server may be silent."""
    scrub = Scrubber([key, *model.endpoint.headers.values()])
    name, address = model.endpoint.name, model.endpoint.base_url
    words = _clipped(scrub(trouble.said))
    detail = scrub("\n".join(filter(None, (trouble.detail, _whole(trouble.body)))))
    at = f"{name} ({address})"
    behind = f" ({words})" if words else ""

    def error(kind: type[EndpointError], message: str, next_step: str) -> PhichatError:
        return kind(message, next_step, detail=detail)

    if long := overflow(trouble):
        return ServedContextOverflow(name, *long, detail=detail)
    match trouble.kind:
        case Kind.REFUSED:
            return error(EndpointUnreachable, f"Nothing answers at {at}", "start the server, or mend its base_url")
        case Kind.UNREACHABLE:
            return error(
                EndpointUnreachable,
                f"{at} cannot be reached{_because(trouble, scrub)}",
                "check base_url and the network",
            )
        case Kind.TLS:
            return error(
                EndpointUnreachable,
                f"No secure connection to {at} can be made{_because(trouble, scrub)}",
                "check that base_url is right and begins as the server speaks (http or https), or trust its "
                "certificate by SSL_CERT_FILE",
            )
        case Kind.LOST:
            return error(
                EndpointUnreachable, f"{at} has closed the connection", "ask again, or look at the server's log"
            )
        case Kind.CUT:
            return error(
                EndpointUnreachable,
                f"{at} has ended its answer before it was complete",
                "ask again, or look at the server's log",
            )
        case Kind.SILENT:
            return error(
                EndpointUnreachable,
                f"{at} has said nothing for {waited_s:g} s",
                f"ask again, or raise timeout under [endpoints.{name}]",
            )
        case Kind.WEB_PAGE:
            return error(EndpointError, f"{at} answers with a web page", "mend base_url, which often ends in /v1")
        case Kind.BAD_JSON | Kind.BAD_STREAM:
            return error(
                EndpointError,
                f"{at} answers with something that is no chat completion{_because(trouble, scrub)}",
                "check that base_url leads to an OpenAI-compatible API, or ask again",
            )
        case Kind.HUGE:
            return error(EndpointError, f"{at} sends more than any answer takes", "check what is at base_url")
        case Kind.FILTERED:
            return error(EndpointError, f"The content filter of {name} has ended the answer", "put it another way")
        case Kind.STATUS if trouble.error.get("code") == "content_filter":
            return error(EndpointError, f"The content filter of {name} does not take the prompt", "put it another way")
        case Kind.TOOLS:
            return error(
                EndpointError,
                f"{model.name} calls a tool instead of answering",
                "put it another way, or use another model",
            )
        case Kind.SAID:
            return error(EndpointError, f"{name} reports an error in its answer{behind}", "ask again")
        case Kind.STATUS:
            return _of_status(trouble, model, behind, detail, has_key=bool(key))
        case _:
            assert_never(trouble.kind)


def _of_status(trouble: Trouble, model: Served, behind: str, detail: str, *, has_key: bool) -> PhichatError:
    name, endpoint, status = model.endpoint.name, model.endpoint, trouble.status
    if status in (401, 403):
        variable = endpoint.api_key_env
        if has_key and variable:
            step = f"check what the variable {variable} holds"
        elif has_key:
            step = f"check what api_key_command under [endpoints.{name}] gives"
        elif variable:
            step = f"set the variable {variable} to the key"
        else:
            step = f"name the variable that holds the key by api_key_env under [endpoints.{name}]"
        what = "does not take the key" if has_key else "wants a key"
        return EndpointDenied(f"{name} {what}{behind}", step, detail=detail)
    if status == 404 and trouble.said and re.search(r"model|deployment", trouble.said, re.IGNORECASE):
        return ModelNotInstalled(
            f"{name} has no model {model.model}{behind}", f"see `phichat list --endpoint {name}`", detail=detail
        )
    if status == 404:
        message, step = f"{name} has nothing at {endpoint.base_url}", "mend base_url, which often ends in /v1"
    elif 300 <= status < 400:
        message, step = f"{name} sends on to another address", "put the address that answers into base_url"
    elif status == 429:
        wait = trouble.retry_after
        message = f"{name} takes no more requests now{behind}"
        step = f"ask again in {wait:,.0f} s" if wait else "ask again later"
    elif status == 413:
        message, step = f"{name} does not take so large a request{behind}", "shorten the prompt"
    elif status >= 500:
        message, step = f"{name} fails with status {status}{behind}", "ask again later, or look at the server's log"
    else:
        message, step = f"{name} refuses the request with status {status}{behind}", "change what it names"
    return EndpointError(message, step, detail=detail)


def _because(trouble: Trouble, scrub: Scrubber) -> str:
    return f" ({_clipped(scrub(trouble.detail))})" if trouble.detail else ""


def _clipped(words: str) -> str:
    line = " ".join(words.split()).rstrip(".")
    return line if len(line) <= _SHOWN else line[:_SHOWN].rstrip() + "…"


def _whole(body: Any) -> str:
    text = body if isinstance(body, str) else json.dumps(body, default=str) if body is not None else ""
    return text[:10_000]
