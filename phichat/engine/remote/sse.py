"""Decoder of server-sent events and of the chunks in them: pure, incremental, with bounds on what a server can send."""

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from phichat.engine.remote.errors import RemoteError, RemoteErrorKind, parse_count
from phichat.types import FinishReason, Usage

MAX_EVENT_BYTES = 4 << 20
"""Limit of one event, or of one JSON document."""

JsonObject = Mapping[str, Any]

_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseDecoder:
    """Decoder of text/event-stream into JSON documents (WHATWG HTML, "Interpreting an event stream").

    line_count, document_count: lines and documents so far. is_done: the server has sent [DONE].
    """

    def __init__(self) -> None:
        self._partial_line = bytearray()
        self._pending_cr = b""
        self._data_lines: list[bytes] = []
        self._data_bytes = 0
        self.line_count = self.document_count = 0
        self.is_done = False

    def feed(self, chunk: bytes) -> Iterator[JsonObject]:
        """Yield the documents that the chunk completes. Raises RemoteError."""
        chunk, self._pending_cr = self._pending_cr + chunk, b""
        if chunk.endswith(b"\r"):  # may be the first half of CR LF
            chunk, self._pending_cr = chunk[:-1], b"\r"
        *lines, remainder = _LINE_END.split(chunk)
        for line in lines:
            yield from self._feed_line(bytes(self._partial_line) + line)
            self._partial_line.clear()
        self._partial_line += remainder
        if len(self._partial_line) > MAX_EVENT_BYTES:
            raise RemoteError(RemoteErrorKind.TOO_LARGE)

    def flush(self) -> Iterator[JsonObject]:
        """Yield the document of an event that was not ended. Raises RemoteError."""
        for line in (bytes(self._partial_line), b""):
            yield from self._feed_line(line)

    def _feed_line(self, line: bytes) -> Iterator[JsonObject]:
        if not self.line_count:
            line = line.removeprefix(codecs.BOM_UTF8)
        self.line_count += bool(line)
        if line:
            name, _, value = line.partition(b":")
            if name in (b"data", b"error"):  # older llama-servers send errors this way
                self._data_lines.append(value.removeprefix(b" "))
                self._data_bytes += len(line)
                if self._data_bytes > MAX_EVENT_BYTES:
                    raise RemoteError(RemoteErrorKind.TOO_LARGE)
            return
        data, self._data_lines, self._data_bytes = b"\n".join(self._data_lines), [], 0
        if self.is_done or not data:
            return
        if data.strip() == b"[DONE]":
            self.is_done = True
        else:
            self.document_count += 1
            yield parse_document(data)


def parse_document(content: bytes) -> JsonObject:
    """Return a JSON object. Raises RemoteError."""
    try:
        value = json.loads(content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise RemoteError(RemoteErrorKind.BAD_JSON) from None
    if not isinstance(value, dict):
        raise RemoteError(RemoteErrorKind.BAD_JSON)
    return value


@dataclass(frozen=True, slots=True)
class ChoiceDelta:
    """Addition of one chunk to one choice. finish_reason: in the server's words, "" while the choice goes on."""

    index: int
    reasoning: str
    text: str
    finish_reason: str


def parse_chunk(chunk: JsonObject) -> tuple[Sequence[ChoiceDelta], Usage | None]:
    """Parse a chunk of a chat completion, or a whole completion: its deltas, and the usage of the whole request.

    Raises RemoteError when it is neither, or an error document.
    """
    choices, usage = chunk.get("choices"), _parse_usage(chunk.get("usage"))
    if chunk.get("error") or (choices is None and {"message", "detail"} & set(chunk)):
        raise RemoteError(RemoteErrorKind.ERROR_IN_STREAM, body=chunk)
    if not isinstance(choices, list):
        if usage is None and chunk.get("object") != "chat.completion.chunk":
            raise RemoteError(RemoteErrorKind.BAD_STREAM)
        choices = []
    return [_parse_choice(choice) for choice in choices if isinstance(choice, dict)], usage


def _parse_choice(choice: JsonObject) -> ChoiceDelta:
    index, delta = choice.get("index"), choice.get("delta") or choice.get("message") or {}
    if not isinstance(delta, dict):
        raise RemoteError(RemoteErrorKind.BAD_STREAM)
    return ChoiceDelta(
        index if isinstance(index, int) else 0,
        _parse_text(delta.get("reasoning_content")) or _parse_text(delta.get("reasoning")),
        _parse_text(delta.get("content")) or _parse_text(delta.get("refusal")),
        _parse_text(choice.get("finish_reason")),
    )


def _parse_text(value: object) -> str:
    if isinstance(value, list):  # a list of parts
        return "".join(_parse_text(part.get("text")) for part in value if isinstance(part, dict))
    if not isinstance(value, str):
        return ""
    if not value.isascii():  # JSON can hold lone surrogates
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _parse_usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    counts = value | {"cached_tokens": details.get("cached_tokens") if isinstance(details, dict) else 0}
    return Usage(*(parse_count(counts.get(name)) for name in ("prompt_tokens", "cached_tokens", "completion_tokens")))


def parse_finish_reason(value: str) -> FinishReason:
    """Return how an answer ended. Raises RemoteError for an end that is not the answer's own."""
    match value:
        case "length" | "max_tokens":
            return FinishReason.LENGTH
        case "content_filter":
            raise RemoteError(RemoteErrorKind.CONTENT_FILTER)
        case "tool_calls" | "function_call":
            raise RemoteError(RemoteErrorKind.TOOL_CALL)
        case "error" | "abort" | "insufficient_system_resource":
            raise RemoteError(RemoteErrorKind.TRUNCATED)
        case _:
            return FinishReason.STOP
