"""Answers of a server as their documents come."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

from phichat.engine.ipc.protocol import GenerationFinished, OutputDelta, SampleOutput
from phichat.engine.remote import request_body
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind
from phichat.engine.remote.sse import JsonObject, parse_chunk, parse_finish_reason
from phichat.engine.stream_filters import ReasoningSplitter
from phichat.types import FinishReason, SamplingParams, Timings, Usage

_MAX_ANSWER_CHARS = 16 << 20
"""Characters of an answer: more than any context holds."""


class CompletionParser:
    """One answer, as its documents come.

    has_begun: something of it was said. finish: how it ends in the server's words, "" as long as it does not.
    """

    def __init__(self, endpoint: str, params: SamplingParams, explicit_options: Collection[str]) -> None:
        self._endpoint = endpoint
        self._has_max_tokens = params.max_tokens is not None
        self.api_options: Mapping[str, Any] = request_body.build_options(params, explicit_options)
        self.notices: list[str] = []
        self.has_output = False
        self.usage: Usage | None = None
        self.finish_reason = ""
        self._splitter = ReasoningSplitter("")
        self._char_count = 0
        self._requested_at = monotonic()
        self._first_delta_at = self._last_delta_at = 0.0

    def feed(self, document: JsonObject) -> Iterator[OutputDelta]:
        """What it adds. Raises Trouble."""
        delta = parse_chunk(document)
        self.usage, self.finish_reason = delta.usage or self.usage, delta.finish_reason or self.finish_reason
        if delta.text or delta.reasoning:
            self._char_count += len(delta.text) + len(delta.reasoning)
            if self._char_count > _MAX_ANSWER_CHARS:
                raise RemoteError(RemoteErrorKind.TOO_LARGE)
            self._last_delta_at = monotonic()
            self._first_delta_at = self._first_delta_at or self._last_delta_at
            self.has_output = True
            reasoning, text = self._splitter.feed(delta.text) if delta.text else ("", "")
            if delta.reasoning or reasoning or text:
                yield OutputDelta(delta.reasoning + reasoning, text, 0)

    def flush(self) -> Iterator[OutputDelta]:
        """What was held back because it might have been a mark."""
        reasoning, text = self._splitter.flush()
        if reasoning or text:
            yield OutputDelta(reasoning, text, 0)

    def emit_result(self) -> Iterator[GenerationFinished]:
        """How it has ended. Raises Trouble when that is no end of the answer's own."""
        yield self.build_result()

    def build_result(self) -> GenerationFinished:
        """As `end`."""
        if not self.finish_reason and not self.has_output:
            raise RemoteError(RemoteErrorKind.BAD_STREAM)
        reason = parse_finish_reason(self.finish_reason)
        if reason is FinishReason.LENGTH and not self._has_max_tokens:
            limit = "its own limit, which --max-tokens may raise, or at the end of its context"
            self.notices.append(f"{self._endpoint} has ended the answer at {limit}.")
        usage = self.usage or Usage()
        wait_s = (self._first_delta_at or monotonic()) - self._requested_at
        generation_s = self._last_delta_at - self._first_delta_at
        speed = max(0, usage.completion_tokens - 1) / generation_s if generation_s > 0 else 0.0
        return GenerationFinished(reason, usage, Timings(0.0, wait_s, wait_s, generation_s, speed))


class MultiCompletionParser:
    """Several answers to one request, which come mixed; otherwise as `Answering`.

    A server that does not know of that gives one, or refuses.
    """

    def __init__(self, endpoint: str, params: SamplingParams, explicit_options: Collection[str], n: int) -> None:
        self._endpoint, self._params, self._explicit_options, self._n = endpoint, params, explicit_options, n
        self.api_options = {**request_body.build_options(params, {*explicit_options, "seed"}), "n": n}
        self._parsers: dict[int, CompletionParser] = {}
        self._delta_counts: dict[int, int] = {}
        self._finished: set[int] = set()
        self.notices: list[str] = []
        self.usage: Usage | None = None

    @property
    def has_output(self) -> bool:
        """Something of one of them was said."""
        return any(parser.has_output for parser in self._parsers.values())

    @property
    def finish_reason(self) -> str:
        """How they end, "" while one does not."""
        reasons = [parser.finish_reason for parser in self._parsers.values()]
        return reasons[0] if len(reasons) == self._n and all(reasons) else ""

    def feed(self, document: JsonObject) -> Iterator[SampleOutput]:
        """What it adds to each. Raises Trouble."""
        choices = document.get("choices")
        if not isinstance(choices, list):
            choices = []
            parse_chunk(document)
        self.usage = parse_chunk({**document, "choices": []}).usage or self.usage
        for choice in choices:
            index = choice.get("index", 0) if isinstance(choice, dict) else None
            if isinstance(index, int) and 0 <= index < self._n:
                for output in self._get_parser(index).feed({"choices": [choice]}):
                    self._delta_counts[index] = self._delta_counts.get(index, 0) + 1
                    yield SampleOutput(index, output)

    def _get_parser(self, index: int) -> CompletionParser:
        if index not in self._parsers:
            self._parsers[index] = CompletionParser(self._endpoint, self._params, self._explicit_options)
        return self._parsers[index]

    def flush(self) -> Iterator[SampleOutput]:
        """As `Answering.rest`, of each."""
        for index, parser in self._parsers.items():
            for output in parser.flush():
                yield SampleOutput(index, output)

    def emit_result(self) -> Iterator[SampleOutput]:
        """How each has ended that did not before. Raises Trouble."""
        for index, parser in self._parsers.items():
            if index not in self._finished:
                yield self._build_result(index, parser)

    def emit_completed(self) -> Iterator[SampleOutput]:
        """The same of those whose end has come, where that of others will not."""
        for index, parser in self._parsers.items():
            if index not in self._finished and parser.finish_reason:
                with suppress(RemoteError):
                    yield self._build_result(index, parser)

    def _build_result(self, index: int, parser: CompletionParser) -> SampleOutput:
        """The server counts the tokens of all together."""
        delta_count = self._delta_counts.get(index, 0)
        parser.usage = Usage(0, 0, delta_count)
        if self.usage:
            share = delta_count / max(1, sum(self._delta_counts.values()))
            parser.usage = replace(self.usage, completion_tokens=round(self.usage.completion_tokens * share))
        result = parser.build_result()
        self._finished.add(index)
        self.notices += [notice for notice in parser.notices if notice not in self.notices]
        return SampleOutput(index, result)
