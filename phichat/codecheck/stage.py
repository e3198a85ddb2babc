"""The code check's place in the stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from threading import Thread

from phichat.code_report import CodeReport, CodeScope
from phichat.events import CodeChecked, Event, TextDelta, TurnFinished

_PLAIN = re.compile(r"(?!.*(?:import|install|add|uvx|pipx))[^\n`~(){}\[\]=;:_#<>|&$/\\\t]{0,200}", re.IGNORECASE)
"""A line that can hold no code: answers of a word or two are not worth a parser."""

_FENCE = re.compile(r"[ >\t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}|~{3,})(.*)")


def check_code(events: Iterator[Event], scope: CodeScope | None = None) -> Iterator[Event]:
    """The same events, with a CodeChecked right after the text that closed a code block.

    Before the TurnFinished comes one more where the whole answer has another report than what was there
    before, and none where there is nothing to report. scope: what the model's card vouches for.
    """
    fences = FenceTracker()
    pieces: list[str] = []
    reported = CodeReport()
    plain = True
    for event in events:
        match event:
            case TextDelta(text=text):
                yield event
                pieces.append(text)
                if plain and not _is_plain("".join(pieces)):
                    plain = False
                    # The check and its lists take 0.1 s to come up, in which the model can go on.
                    Thread(target=import_module, args=("phichat.codecheck.report",), daemon=True).start()
                if not fences.feed(text):
                    continue
                report = _check("".join(pieces), scope)
            case TurnFinished(text=text):
                report = reported if _is_plain(text) else _check(text, scope)
            case _:
                yield event
                continue
        if report != reported:
            reported = report
            yield CodeChecked(report)
        if isinstance(event, TurnFinished):
            yield event


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text.strip()) is not None


def _check(text: str, scope: CodeScope | None) -> CodeReport:
    from phichat.codecheck.report import check_text

    return check_text(text, scope=scope)


class FenceTracker:
    """Tells when a fenced block may have closed: cheap, so that the real reading happens only then.

    Containers are not followed: a fence in a list or a quote counts like any other.
    """

    def __init__(self) -> None:
        self._line = ""
        self._fence = ""

    def feed(self, text: str) -> bool:
        """Take in a piece of the answer; True when a block has closed in it."""
        if "\n" not in text:
            self._line += text
            return False
        *lines, rest = (self._line + text).split("\n")
        self._line = rest
        closed = [self._closes(line) for line in lines]
        return any(closed)

    def _closes(self, line: str) -> bool:
        found = _FENCE.match(line)
        if found is None:
            return False
        fence, info = found[1], found[2]
        if not self._fence:
            if "`" not in info or fence[0] == "~":
                self._fence = fence
            return False
        if fence[0] == self._fence[0] and len(fence) >= len(self._fence) and not info.strip():
            self._fence = ""
            return True
        return False
