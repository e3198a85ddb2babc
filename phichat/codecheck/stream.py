"""The code check's place in the stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from threading import Thread

from phichat.code_report import CodeReport, TrainingScope
from phichat.events import CodeChecked, Event, TextDelta, TurnFinished

_NO_CODE_LINE = re.compile(r"(?!.*(?:import|install|add|uvx|pipx))[^\n`~(){}\[\]=;:_#<>|&$/\\\t]{0,200}", re.IGNORECASE)
"""A line that can hold no code: answers of a word or two are not worth a parser."""

_FENCE = re.compile(r"[ >\t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}|~{3,})(.*)")


def check_code(events: Iterator[Event], scope: TrainingScope | None = None) -> Iterator[Event]:
    """The same events, with a CodeChecked right after the text that closed a code block.

    Before the TurnFinished comes one more where the whole answer has another report than what was there
    before, and none where there is nothing to report. scope: what the model's card vouches for.
    """
    fences = FenceTracker()
    deltas: list[str] = []
    last_report = CodeReport()
    is_plain = True
    for event in events:
        match event:
            case TextDelta(text=text):
                yield event
                deltas.append(text)
                if is_plain and not _is_plain("".join(deltas)):
                    is_plain = False
                    # The check and its lists take 0.1 s to come up, in which the model can go on.
                    Thread(target=import_module, args=("phichat.codecheck.checker",), daemon=True).start()
                if not fences.feed_text(text):
                    continue
                report = _check_text("".join(deltas), scope)
            case TurnFinished(text=text):
                report = last_report if _is_plain(text) else _check_text(text, scope)
            case _:
                yield event
                continue
        if report != last_report:
            last_report = report
            yield CodeChecked(report)
        if isinstance(event, TurnFinished):
            yield event


def _is_plain(text: str) -> bool:
    return _NO_CODE_LINE.fullmatch(text.strip()) is not None


def _check_text(text: str, scope: TrainingScope | None) -> CodeReport:
    from phichat.codecheck.checker import check_answer

    return check_answer(text, scope=scope)


class FenceTracker:
    """Tells when a fenced block may have closed: cheap, so that the real reading happens only then.

    Containers are not followed: a fence in a list or a quote counts like any other.
    """

    def __init__(self) -> None:
        self._partial_line = ""
        self._open_fence = ""

    def feed_text(self, text: str) -> bool:
        """Take in a piece of the answer; True when a block has closed in it."""
        if "\n" not in text:
            self._partial_line += text
            return False
        *lines, partial = (self._partial_line + text).split("\n")
        self._partial_line = partial
        closed = [self._closes_fence(line) for line in lines]
        return any(closed)

    def _closes_fence(self, line: str) -> bool:
        match = _FENCE.match(line)
        if match is None:
            return False
        fence, info = match[1], match[2]
        if not self._open_fence:
            if "`" not in info or fence[0] == "~":
                self._open_fence = fence
            return False
        if fence[0] == self._open_fence[0] and len(fence) >= len(self._open_fence) and not info.strip():
            self._open_fence = ""
            return True
        return False
