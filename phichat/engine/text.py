"""From token pieces to text: pure, incremental, and constant in cost per token."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

OPEN_THINKING = "<think>"
CLOSE_THINKING = "</think>"


class Utf8Stream:
    """Bytes to text, a character at the earliest when it is whole.

    Invalid bytes become U+FFFD at once and never hold back what follows them.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, piece: bytes) -> str:
        """The characters that piece completes."""
        return self._decoder.decode(piece)


def _overlap(text: str, marks: Sequence[str]) -> int:
    """The length of the longest end of text that begins one of marks without completing it."""
    longest = 0
    for mark in marks:
        for size in range(min(len(mark) - 1, len(text)), longest, -1):
            if mark.startswith(text[-size:]):
                longest = size
                break
    return longest


class StopStrings:
    """Cuts the text before the first stop string, wherever the tokens break it."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What may be shown: never a part of a stop string."""
        if not self._stops or self.found:
            return "" if self.found else text
        text = self._held + text
        starts = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if starts:
            self.found, self._held = True, ""
            return text[: min(starts)]
        keep = len(text) - _overlap(text, self._stops)
        self._held = text[keep:]
        return text[:keep]

    def close(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


class ReasoningSplitter:
    """Tells what the model thinks from what it says.

    Reasoning stands between <think> and </think> at the very beginning of a reply; a prompt that
    ends with <think> has opened it already. The same words later in an answer are text.
    White space around the marks belongs to neither.
    """

    def __init__(self, prompt_end: str) -> None:
        opened = prompt_end.rstrip().endswith(OPEN_THINKING)
        self._state = "thinking" if opened else "undecided"
        self._held = ""
        self._at_start = True

    def feed(self, text: str) -> tuple[str, str]:
        """(reasoning, text) that the piece adds."""
        if self._state == "text":
            return "", text
        self._held += text
        if self._state == "undecided":
            begun = self._held.lstrip()
            if OPEN_THINKING.startswith(begun) and begun != OPEN_THINKING:
                return "", ""
            if not begun.startswith(OPEN_THINKING):
                self._state = "text"
                return "", self._take(len(self._held))
            self._state, self._held = "thinking", begun[len(OPEN_THINKING) :]
        if self._state == "thinking":
            end = self._held.find(CLOSE_THINKING)
            if end < 0:
                ready = self._held[: len(self._held) - _overlap(self._held, (CLOSE_THINKING,))]
                # White space may be the last before the closing mark: it waits until something follows.
                return self._shorn(self._take(len(ready.rstrip()))), ""
            reasoning = self._shorn(self._take(end).rstrip())
            self._take(len(CLOSE_THINKING))
            self._state, self._at_start = "closed", True
            return reasoning, self.feed("")[1]
        answer = self._shorn(self._take(len(self._held)))
        if answer:
            self._state = "text"
        return "", answer

    def close(self) -> tuple[str, str]:
        """(reasoning, text) that was held back."""
        held, self._held = self._held, ""
        if self._state == "thinking":
            return self._shorn(held), ""
        return "", held if self._state == "undecided" else ""

    def _take(self, size: int) -> str:
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def _shorn(self, text: str) -> str:
        if self._at_start:
            text = text.lstrip()
            self._at_start = not text
        return text
