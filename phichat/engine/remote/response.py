"""Parser of chat completion responses: the documents of a server to outputs as an engine process gives them."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from time import monotonic
from typing import Any

from phichat.engine.ipc.protocol import GenerationFinished, OutputDelta, SampleOutput
from phichat.engine.remote import request_body
from phichat.engine.remote.errors import RemoteError, RemoteErrorKind
from phichat.engine.remote.sse import JsonObject, parse_chunk, parse_finish_reason
from phichat.engine.stream_filters import ReasoningSplitter
from phichat.types import FinishReason, SamplingParams, Timings, Usage


@dataclass(slots=True)
class _Choice:
    """One answer as it grows. finish_reason: in the server's words, "" until it has ended."""

    splitter: ReasoningSplitter = field(default_factory=lambda: ReasoningSplitter(""))
    finish_reason: str = ""
    char_count: int = 0
    delta_count: int = 0
    first_delta_at: float = 0.0
    last_delta_at: float = 0.0
    is_emitted: bool = False


class CompletionParser:
    """Parser of the response to one request for n answers, whose chunks may come mixed.

    A server that does not support n answers sends one. notices: remarks for the user.
    """

    def __init__(self, endpoint: str, params: SamplingParams, explicit_options: Collection[str], n: int = 1) -> None:
        self._endpoint, self._n, self._has_max_tokens = endpoint, n, params.max_tokens is not None
        self._choices = {0: _Choice()} if n == 1 else {}
        several = {} if n == 1 else {"n": n}
        explicit_options = explicit_options if n == 1 else {*explicit_options, "seed"}
        self.api_options: Mapping[str, Any] = request_body.build_options(params, explicit_options) | several
        self._requested_at = monotonic()
        self.notices: list[str] = []
        self.usage: Usage | None = None

    @property
    def has_output(self) -> bool:
        """True once part of an answer has arrived."""
        return any(choice.delta_count for choice in self._choices.values())

    @property
    def is_finished(self) -> bool:
        """True once every answer has a finish reason."""
        return len(self._choices) == self._n and all(choice.finish_reason for choice in self._choices.values())

    def feed(self, document: JsonObject) -> Iterator[SampleOutput]:
        """Yield what a document adds to the answers. Raises RemoteError."""
        deltas, usage = parse_chunk(document)
        self.usage = usage or self.usage
        if self._n == 1 and deltas:
            deltas = [replace(min(deltas, key=lambda delta: delta.index), index=0)]
        for delta in deltas:
            if not 0 <= delta.index < self._n:
                continue
            choice = self._choices.setdefault(delta.index, _Choice())
            choice.finish_reason = delta.finish_reason or choice.finish_reason
            if not delta.text and not delta.reasoning:
                continue
            choice.char_count += len(delta.text) + len(delta.reasoning)
            if choice.char_count > 16 << 20:  # more than any context holds
                raise RemoteError(RemoteErrorKind.TOO_LARGE)
            choice.last_delta_at = monotonic()
            choice.first_delta_at = choice.first_delta_at or choice.last_delta_at
            choice.delta_count += 1
            reasoning, text = choice.splitter.feed(delta.text) if delta.text else ("", "")
            if delta.reasoning or reasoning or text:
                yield SampleOutput(delta.index, OutputDelta(delta.reasoning + reasoning, text, 0))

    def flush(self) -> Iterator[SampleOutput]:
        """Yield text that was held back because it might have been the start of a reasoning tag."""
        for index, choice in self._choices.items():
            reasoning, text = choice.splitter.flush()
            if reasoning or text:
                yield SampleOutput(index, OutputDelta(reasoning, text, 0))

    def emit_results(self, *, only_finished: bool = False) -> Iterator[SampleOutput]:
        """Yield how each answer ended. Raises RemoteError for one without an end of its own.

        only_finished: skip such answers instead, when an error has cut them off.
        """
        for index, choice in self._choices.items():
            if choice.is_emitted or (only_finished and not choice.finish_reason):
                continue
            with suppress(*(RemoteError,) if only_finished else ()):
                yield SampleOutput(index, self._build_result(choice))

    def _build_result(self, choice: _Choice) -> GenerationFinished:
        if not choice.finish_reason and not choice.delta_count:
            raise RemoteError(RemoteErrorKind.BAD_STREAM)
        reason = parse_finish_reason(choice.finish_reason)
        choice.is_emitted = True
        if reason is FinishReason.LENGTH and not self._has_max_tokens:
            notice = f"{self._endpoint} stopped at its token limit (try --max-tokens) or at the end of its context."
            if notice not in self.notices:
                self.notices.append(notice)
        usage = self._usage_share(choice)
        wait_s = (choice.first_delta_at or monotonic()) - self._requested_at
        generation_s = choice.last_delta_at - choice.first_delta_at
        speed = max(0, usage.completion_tokens - 1) / generation_s if generation_s > 0 else 0.0
        return GenerationFinished(reason, usage, Timings(0.0, wait_s, wait_s, generation_s, speed))

    def _usage_share(self, choice: _Choice) -> Usage:
        """Return the usage of one answer: the server counts the tokens of all together."""
        if self._n == 1:
            return self.usage or Usage()
        if self.usage is None:
            return Usage(completion_tokens=choice.delta_count)
        share = choice.delta_count / max(1, sum(one.delta_count for one in self._choices.values()))
        return replace(self.usage, completion_tokens=round(self.usage.completion_tokens * share))
