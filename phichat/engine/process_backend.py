"""Base of the backends whose model is loaded in an engine process. Each prompt imports it, so it imports little."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from phichat.engine.backend import CancelToken, GenerationEvent, LoadEvent, SampleEvent
from phichat.engine.ipc import protocol
from phichat.engine.ipc.connection import EngineConnection
from phichat.engine.ipc.protocol import EngineReply, ErrorCode
from phichat.engine.parallel_sampling import SamplesAccumulator, derive_seeds
from phichat.engine.reply_accumulator import ReplyAccumulator
from phichat.errors import ContextOverflow, EngineError, EngineLoadFailed, ModelDoesNotFit, PhichatError, TemplateError
from phichat.events import ModelReady
from phichat.types import FinishReason, Message, SamplingParams

_T = TypeVar("_T")

_FAILURES: dict[ErrorCode, tuple[type[PhichatError], str, str]] = {
    ErrorCode.TEMPLATE: (TemplateError, "The model's chat template refuses these messages", "Try another model"),
    ErrorCode.MEMORY: (
        ModelDoesNotFit,
        "{name} needs more memory than is free",
        "Try a smaller --ctx-size, fewer --n-gpu-layers or a smaller model",
    ),
    ErrorCode.LOAD: (
        EngineLoadFailed,
        "llama.cpp cannot load {path}",
        "Download it again, or update llama-cpp-python if the model is newer",
    ),
    ErrorCode.DECODE: (EngineError, "llama.cpp could not evaluate the prompt", "Ask again"),
}
"""Error, message and next step for the cause of a failed request."""


def require_loaded(value: _T | None) -> _T:
    """Return the value. Raises EngineError for None, which stands for a model that is not loaded."""
    if value is None:
        raise EngineError("No model is loaded", "Load one first")
    return value


class ProcessBackend(ABC):
    """Requests to a loaded model; subclasses load it. path: of the model's file."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self.path = name, path
        self._unreported_load_s = 0.0

    @property
    @abstractmethod
    def n_ctx(self) -> int:
        """See `Backend.n_ctx`."""

    @abstractmethod
    def _require_connection(self) -> EngineConnection:
        """Return the connection to the loaded model. Raises EngineError when there is none."""

    @abstractmethod
    def _on_disconnected(self) -> None:
        """Forget the connection, which has ended; the next load starts afresh."""

    @abstractmethod
    def _load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """See `Backend.load`."""

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """See `Backend.load`. Raises ModelFileError, ModelDoesNotFit and EngineError kinds."""
        for event in self._load(cancel):
            if isinstance(event, ModelReady):
                self._unreported_load_s = event.load_s
            yield event

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        for reply in self._request(protocol.CountTokens(tuple(messages)), cancel):
            if isinstance(reply, protocol.TokenCount):
                return reply.tokens
        return 0

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        """See `Backend.generate`. Raises EngineError kinds, ContextOverflow and TemplateError."""
        (seed,) = derive_seeds(params, 1)
        accumulator = ReplyAccumulator(self.n_ctx, seed, self._take_load_s())
        try:
            for reply in self._request(protocol.Generate(tuple(messages), params, seed, conversation_id), cancel):
                yield from accumulator.feed(reply)
        except PhichatError:
            yield accumulator.finish(FinishReason.ERROR)
            raise
        yield accumulator.finish()

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """See `Backend.generate_n`. Raises what `generate` does."""
        seeds = derive_seeds(params, n)
        accumulator = SamplesAccumulator(self.n_ctx, seeds, self._take_load_s())
        try:
            for reply in self._request(protocol.GenerateN(tuple(messages), params, seeds), cancel):
                yield from accumulator.feed(reply)
        except PhichatError:
            yield from accumulator.finish_remaining(FinishReason.ERROR)
            raise
        yield from accumulator.finish_remaining()

    def _take_load_s(self) -> float:
        load_s, self._unreported_load_s = self._unreported_load_s, 0.0
        return load_s

    def _request(self, request: protocol.Request, cancel: CancelToken) -> Iterator[EngineReply]:
        """Yield the replies but ErrorReply: its error is raised, or a cancelled request just ends."""
        connection = self._require_connection()
        try:
            for reply in connection.request(request, cancel):
                if not isinstance(reply, protocol.ErrorReply):
                    yield reply
                elif reply.code is not ErrorCode.CANCELLED:
                    raise self._to_exception(reply)
        finally:
            if not connection.is_alive:
                self._on_disconnected()

    def _to_exception(self, reply: protocol.ErrorReply) -> PhichatError:
        if reply.code is ErrorCode.OVERFLOW:
            return ContextOverflow(reply.prompt_tokens, self.n_ctx)
        error_type, message, next_step = _FAILURES.get(reply.code, _FAILURES[ErrorCode.LOAD])
        return error_type(f"{message.format(name=self._name, path=self.path)} ({reply.message})", next_step)
