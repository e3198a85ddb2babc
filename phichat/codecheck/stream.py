"""Code check of an answer while its events stream by."""

import re
from collections.abc import Iterator
from importlib import import_module
from threading import Thread

from phichat.code_report import CodeReport, TrainingScope
from phichat.events import CodeChecked, Event, TextDelta, TurnFinished

_NO_CODE_LINE = re.compile(r"(?!.*(?:import|install|add|uvx|pipx))[^\n`~(){}\[\]=;:_#<>|&$/\\\t]{0,200}", re.IGNORECASE)
"""A single line without code: short answers are not worth loading a parser."""

_FENCE = re.compile(r"[ >\t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}|~{3,})(.*)")


def check_code(events: Iterator[Event], scope: TrainingScope | None = None) -> Iterator[Event]:
    """Yield the events, with a CodeChecked right after the text that closes a code block.

    Another precedes the TurnFinished if the report on the whole answer differs; there is none without findings.
    scope: what the model card says the model was trained on.
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
                    # Loading the check takes 0.1 s, in which the model can continue.
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
    """Cheap detector of closing fences, so that the Markdown is parsed only then.

    Containers are not followed: a fence in a list or a quote counts like any other.
    """

    def __init__(self) -> None:
        self._partial_line = ""
        self._open_fence = ""

    def feed_text(self, text: str) -> bool:
        """Add a piece of the answer; return True when a block closed in it."""
        if "\n" not in text:
            self._partial_line += text
            return False
        *lines, self._partial_line = (self._partial_line + text).split("\n")
        closed = [self._closes_fence(line) for line in lines]
        return any(closed)

    def _closes_fence(self, line: str) -> bool:
        match = _FENCE.match(line)
        if match is None:
            return False
        fence, info = match.groups()
        if not self._open_fence:
            if "`" not in info or fence[0] == "~":
                self._open_fence = fence
            return False
        closes = fence.startswith(self._open_fence) and not info.strip()
        if closes:
            self._open_fence = ""
        return closes
