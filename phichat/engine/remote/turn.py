"""Answers of a server as their documents come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

from phichat.engine.protocol import Generated, OfSample, Said
from phichat.engine.remote import request
from phichat.engine.remote.stream import Document, finish_reason, read
from phichat.engine.remote.trouble import Kind, Trouble
from phichat.engine.text import ReasoningSplitter
from phichat.messages import FinishReason, GenerationParams, Timings, Usage

_MOST_SAID = 16 << 20
"""Characters of an answer: more than any context holds."""


class Answering:
    """One answer, as its documents come.

    has_begun: something of it was said. finish: how it ends in the server's words, "" as long as it does not.
    """

    def __init__(self, endpoint: str, params: GenerationParams, given: Collection[str]) -> None:
        self._endpoint = endpoint
        self._is_limited = params.max_tokens is not None
        self.wanted: Mapping[str, Any] = request.options(params, given)
        self.notices: list[str] = []
        self.has_begun = False
        self.usage: Usage | None = None
        self.finish = ""
        self._splitter = ReasoningSplitter("")
        self._said = 0
        self._asked_at = monotonic()
        self._first_at = self._last_at = 0.0

    def take(self, document: Document) -> Iterator[Said]:
        """What it adds. Raises Trouble."""
        piece = read(document)
        self.usage, self.finish = piece.usage or self.usage, piece.finish or self.finish
        if piece.text or piece.reasoning:
            self._said += len(piece.text) + len(piece.reasoning)
            if self._said > _MOST_SAID:
                raise Trouble(Kind.HUGE)
            self._last_at = monotonic()
            self._first_at = self._first_at or self._last_at
            self.has_begun = True
            reasoning, text = self._splitter.feed(piece.text) if piece.text else ("", "")
            if piece.reasoning or reasoning or text:
                yield Said(piece.reasoning + reasoning, text, 0)

    def rest(self) -> Iterator[Said]:
        """What was held back because it might have been a mark."""
        reasoning, text = self._splitter.close()
        if reasoning or text:
            yield Said(reasoning, text, 0)

    def end(self) -> Iterator[Generated]:
        """How it has ended. Raises Trouble when that is no end of the answer's own."""
        yield self.generated()

    def generated(self) -> Generated:
        """As `end`."""
        if not self.finish and not self.has_begun:
            raise Trouble(Kind.BAD_STREAM)
        reason = finish_reason(self.finish)
        if reason is FinishReason.LENGTH and not self._is_limited:
            limit = "its own limit, which --max-tokens may raise, or at the end of its context"
            self.notices.append(f"{self._endpoint} has ended the answer at {limit}.")
        usage = self.usage or Usage()
        waited = (self._first_at or monotonic()) - self._asked_at
        spent = self._last_at - self._first_at
        speed = max(0, usage.completion_tokens - 1) / spent if spent > 0 else 0.0
        return Generated(reason, usage, Timings(0.0, waited, waited, spent, speed))


class AnsweringSeveral:
    """Several answers to one request, which come mixed; otherwise as `Answering`.

    A server that does not know of that gives one, or refuses.
    """

    def __init__(self, endpoint: str, params: GenerationParams, given: Collection[str], number: int) -> None:
        self._endpoint, self._params, self._given, self._number = endpoint, params, given, number
        self.wanted = {**request.options(params, {*given, "seed"}), "n": number}
        self._answers: dict[int, Answering] = {}
        self._pieces: dict[int, int] = {}
        self._ended: set[int] = set()
        self.notices: list[str] = []
        self.usage: Usage | None = None

    @property
    def has_begun(self) -> bool:
        """Something of one of them was said."""
        return any(answer.has_begun for answer in self._answers.values())

    @property
    def finish(self) -> str:
        """How they end, "" while one does not."""
        ends = [answer.finish for answer in self._answers.values()]
        return ends[0] if len(ends) == self._number and all(ends) else ""

    def take(self, document: Document) -> Iterator[OfSample]:
        """What it adds to each. Raises Trouble."""
        choices = document.get("choices")
        if not isinstance(choices, list):
            choices = []
            read(document)
        self.usage = read({**document, "choices": []}).usage or self.usage
        for choice in choices:
            number = choice.get("index", 0) if isinstance(choice, dict) else None
            if isinstance(number, int) and 0 <= number < self._number:
                for said in self._answer(number).take({"choices": [choice]}):
                    self._pieces[number] = self._pieces.get(number, 0) + 1
                    yield OfSample(number, said)

    def _answer(self, number: int) -> Answering:
        if number not in self._answers:
            self._answers[number] = Answering(self._endpoint, self._params, self._given)
        return self._answers[number]

    def rest(self) -> Iterator[OfSample]:
        """As `Answering.rest`, of each."""
        for number, answer in self._answers.items():
            for said in answer.rest():
                yield OfSample(number, said)

    def end(self) -> Iterator[OfSample]:
        """How each has ended that did not before. Raises Trouble."""
        for number, answer in self._answers.items():
            if number not in self._ended:
                yield self._end_of(number, answer)

    def complete(self) -> Iterator[OfSample]:
        """The same of those whose end has come, where that of others will not."""
        for number, answer in self._answers.items():
            if number not in self._ended and answer.finish:
                with suppress(Trouble):
                    yield self._end_of(number, answer)

    def _end_of(self, number: int, answer: Answering) -> OfSample:
        """The server counts the tokens of all together."""
        pieces = self._pieces.get(number, 0)
        answer.usage = Usage(0, 0, pieces)
        if self.usage:
            share = pieces / max(1, sum(self._pieces.values()))
            answer.usage = replace(self.usage, completion_tokens=round(self.usage.completion_tokens * share))
        generated = answer.generated()
        self._ended.add(number)
        self.notices += [notice for notice in answer.notices if notice not in self.notices]
        return OfSample(number, generated)
