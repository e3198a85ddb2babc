"""Incremental filters from token pieces to text; pure, and constant in cost per token."""

import codecs
from collections.abc import Sequence

THINK_START = "<think>"
THINK_END = "</think>"


def make_utf8_decoder() -> codecs.IncrementalDecoder:
    """Return a decoder that emits complete characters only, and at once U+FFFD for invalid bytes."""
    return codecs.getincrementaldecoder("utf-8")("replace")


def _partial_match_length(text: str, markers: Sequence[str]) -> int:
    """Return the length of the longest end of a text that begins a marker; the text contains none of them."""
    longest = min(len(text), max(map(len, markers), default=1) - 1)
    return next((size for size in range(longest, 0, -1) if any(mark.startswith(text[-size:]) for mark in markers)), 0)


class StopStringFilter:
    """Cuts the text before the first stop string, however tokens split it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._buffer = ""
        self.is_stopped = False

    def feed(self, text: str) -> str:
        """Return the text that can be shown: never a part of a stop string."""
        if self.is_stopped:
            return ""
        text = self._buffer + text
        if positions := [text.find(stop) for stop in self._stops if stop in text]:
            self.is_stopped, self._buffer = True, ""
            return text[: min(positions)]
        safe_length = len(text) - _partial_match_length(text, self._stops)
        self._buffer = text[safe_length:]
        return text[:safe_length]

    def flush(self) -> str:
        """Return the text that was held back and is not a stop string."""
        buffered, self._buffer = self._buffer, ""
        return buffered


class ReasoningSplitter:
    """Separates a model's reasoning from its answer.

    Reasoning stands between <think> and </think> at the very beginning of a reply; a prompt that ends with <think> has
    opened it already. The same words later in an answer are text. White space around the markers belongs to neither.
    """

    def __init__(self, prompt_suffix: str) -> None:
        self._state = "thinking" if prompt_suffix.rstrip().endswith(THINK_START) else "undecided"
        self._buffer = ""
        self._at_start = True

    def feed(self, text: str) -> tuple[str, str]:
        """Return the (reasoning, text) that a piece adds."""
        if self._state == "text":
            return "", text
        self._buffer += text
        if self._state == "undecided":
            stripped = self._buffer.lstrip()
            if THINK_START.startswith(stripped) and stripped != THINK_START:
                return "", ""
            if not stripped.startswith(THINK_START):
                self._state = "text"
                return "", self._consume(len(self._buffer))
            self._state, self._buffer = "thinking", stripped[len(THINK_START) :]
        if self._state == "thinking":
            end = self._buffer.find(THINK_END)
            if end < 0:
                safe_text = self._buffer[: len(self._buffer) - _partial_match_length(self._buffer, (THINK_END,))]
                # White space before the closing marker is not reasoning: it waits until more text follows.
                return self._lstrip_once(self._consume(len(safe_text.rstrip()))), ""
            reasoning = self._lstrip_once(self._consume(end).rstrip())
            self._consume(len(THINK_END))
            self._state, self._at_start = "closed", True
            return reasoning, self.feed("")[1]
        if answer := self._lstrip_once(self._consume(len(self._buffer))):
            self._state = "text"
        return "", answer

    def flush(self) -> tuple[str, str]:
        """Return the (reasoning, text) that was held back."""
        buffered, self._buffer = self._buffer, ""
        return (self._lstrip_once(buffered), "") if self._state == "thinking" else ("", buffered)

    def _consume(self, size: int) -> str:
        consumed, self._buffer = self._buffer[:size], self._buffer[size:]
        return consumed

    def _lstrip_once(self, text: str) -> str:
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        return text
