"""Server-sent events to the pieces of an answer: pure and incremental, with bounds on what a server can send."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from phichat.engine.remote.trouble import Kind, Trouble
from phichat.messages import FinishReason, Usage

MOST = 4 << 20
"""Bytes of one event, or of one JSON document; no piece of an answer is as large."""

Document = Mapping[str, Any]

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Events:
    """Bytes of text/event-stream to the JSON documents in them (WHATWG HTML, "Interpreting an event stream").

    lines, documents: how many have come; a server that sends any is alive. is_done: it has said that nothing more
    comes.
    """

    def __init__(self) -> None:
        self._begun = bytearray()
        self._held = b""
        self._data: list[bytes] = []
        self._size = 0
        self.lines = self.documents = 0
        self.is_done = False

    def feed(self, piece: bytes) -> Iterator[Document]:
        """The documents that piece completes. Raises Trouble."""
        piece, self._held = self._held + piece, b""
        if piece.endswith(b"\r"):  # it may be the first half of a line's end
            piece, self._held = piece[:-1], b"\r"
        *lines, rest = _LINE_END.split(piece)
        for line in lines:
            yield from self._line(bytes(self._begun) + line)
            self._begun.clear()
        self._begun += rest
        if len(self._begun) > MOST:
            raise Trouble(Kind.HUGE)

    def close(self) -> Iterator[Document]:
        """What the last event holds whose end did not come. Raises Trouble."""
        for line in (bytes(self._begun), b""):
            yield from self._line(line)

    def _line(self, line: bytes) -> Iterator[Document]:
        if not self.lines:
            line = line.removeprefix(codecs.BOM_UTF8)
        self.lines += bool(line)
        if line:
            name, _, value = line.partition(b":")
            if name in (b"data", b"error"):  # older llama-servers tell of an error so
                self._data.append(value.removeprefix(b" "))
                self._size += len(line)
                if self._size > MOST:
                    raise Trouble(Kind.HUGE)
            return
        data, self._data, self._size = b"\n".join(self._data), [], 0
        if self.is_done or not data:
            return
        if data.strip() == b"[DONE]":
            self.is_done = True
        else:
            self.documents += 1
            yield document(data)


class Whole:
    """The bytes of one JSON document, for a server that does not stream."""

    def __init__(self) -> None:
        self._content = bytearray()
        self.lines = self.documents = 0
        self.is_done = False

    def feed(self, piece: bytes) -> Iterator[Document]:
        """Nothing yet. Raises Trouble."""
        self._content += piece
        if len(self._content) > MOST:
            raise Trouble(Kind.HUGE)
        return iter(())

    def close(self) -> Iterator[Document]:
        """The document. Raises Trouble."""
        self.is_done = True
        yield document(bytes(self._content))


def document(content: bytes) -> Document:
    """A JSON object. Raises Trouble."""
    try:
        value = json.loads(content.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise Trouble(Kind.BAD_JSON) from None
    if not isinstance(value, dict):
        raise Trouble(Kind.BAD_JSON)
    return value


@dataclass(frozen=True, slots=True)
class Piece:
    """What one document adds to an answer. usage: of the whole turn."""

    reasoning: str = ""
    text: str = ""
    finish: str = ""
    usage: Usage | None = None


def read(said: Document) -> Piece:
    """One chunk of a chat completion, or a whole one. Raises Trouble when it is neither, or an error."""
    choices = said.get("choices")
    if said.get("error") or (choices is None and {"message", "detail"} & set(said)):
        raise Trouble(Kind.SAID, body=said)
    usage = _usage(said.get("usage"))
    if not isinstance(choices, list):
        if usage is None and said.get("object") != "chat.completion.chunk":
            raise Trouble(Kind.BAD_STREAM)
        return Piece(usage=usage)
    # What a server says of others beside the first is not mixed into it.
    choice = min((one for one in choices if isinstance(one, dict)), key=_index, default={})
    delta = choice.get("delta") or choice.get("message") or {}
    if not isinstance(delta, dict):
        raise Trouble(Kind.BAD_STREAM)
    return Piece(
        _text(delta.get("reasoning_content")) or _text(delta.get("reasoning")),
        _text(delta.get("content")) or _text(delta.get("refusal")),
        _text(choice.get("finish_reason")),
        usage,
    )


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _text(value: object) -> str:
    if isinstance(value, list):  # content in parts
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    if not isinstance(value, str):
        return ""
    if not value.isascii():  # JSON can hold halves of characters
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _usage(value: object) -> Usage | None:
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    return Usage(_count(value.get("prompt_tokens")), _count(cached), _count(value.get("completion_tokens")))


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 53 else 0


def finish_reason(finish: str) -> FinishReason:
    """Raises Trouble for an end that is none of the answer's own."""
    match finish:
        case "length" | "max_tokens":
            return FinishReason.LENGTH
        case "content_filter":
            raise Trouble(Kind.FILTERED)
        case "tool_calls" | "function_call":
            raise Trouble(Kind.TOOLS)
        case "error" | "abort" | "insufficient_system_resource":
            raise Trouble(Kind.CUT)
        case _:
            return FinishReason.STOP
