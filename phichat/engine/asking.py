"""What can be asked of a loaded model, whoever loaded it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import assert_never

from phichat.engine import protocol
from phichat.engine.backend import Cancel, GenerationEvent, SampleEvent
from phichat.engine.link import EngineLink
from phichat.engine.protocol import Failed, Failure, Reply
from phichat.engine.reply import GrowingReply
from phichat.engine.sampling import GrowingSamples, seeds_of
from phichat.errors import (
    ContextOverflow,
    EngineError,
    EngineLoadFailed,
    ModelDoesNotFit,
    PhichatError,
    TemplateError,
)
from phichat.messages import FinishReason, GenerationParams, Message


class Asking(ABC):
    """The part of a backend that comes after loading. Imports nothing that reads or plans."""

    def __init__(self, name: str, path: Path) -> None:
        self._name, self._path = name, path
        self._unreported_load_s = 0.0

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    @abstractmethod
    def n_ctx(self) -> int:
        """As `Backend.n_ctx`."""

    @abstractmethod
    def _link(self) -> EngineLink:
        """To the engine with the model in it. Raises EngineError when there is none."""

    @abstractmethod
    def _lost(self) -> None:
        """The link has ended; the next load begins anew."""

    def count(self, messages: Sequence[Message], cancel: Cancel) -> int:
        """As `Backend.count`."""
        for reply in self._ask(protocol.Count(tuple(messages)), cancel):
            if isinstance(reply, protocol.Counted):
                return reply.tokens
        return 0

    def generate(
        self, messages: Sequence[Message], params: GenerationParams, cancel: Cancel, owner: str = ""
    ) -> Iterator[GenerationEvent]:
        """As `Backend.generate`. Raises EngineError kinds, ContextOverflow and TemplateError."""
        (seed,) = seeds_of(params, 1)
        load_s, self._unreported_load_s = self._unreported_load_s, 0.0
        reply = GrowingReply(self.n_ctx, seed, load_s)
        try:
            for said in self._ask(protocol.Generate(tuple(messages), params, seed, owner), cancel):
                yield from reply.take(said)
        except PhichatError:
            yield reply.finished(FinishReason.ERROR)
            raise
        yield reply.finished()

    def sample(
        self, messages: Sequence[Message], params: GenerationParams, number: int, cancel: Cancel
    ) -> Iterator[SampleEvent]:
        """As `Backend.sample`. Raises what `generate` does."""
        seeds = seeds_of(params, number)
        load_s, self._unreported_load_s = self._unreported_load_s, 0.0
        replies = GrowingSamples(self.n_ctx, seeds, load_s)
        try:
            for said in self._ask(protocol.Sample(tuple(messages), params, seeds), cancel):
                yield from replies.take(said)
        except PhichatError:
            yield from replies.rest(FinishReason.ERROR)
            raise
        yield from replies.rest()

    def _ask(self, request: protocol.Request, cancel: Cancel) -> Iterator[Reply]:
        """Replies without Failed: that is raised, or the end when it was cancelled."""
        link = self._link()
        try:
            for reply in link.ask(request, cancel):
                if isinstance(reply, Failed):
                    if reply.failure is not Failure.CANCELLED:
                        raise self._failure(reply)
                    return
                yield reply
        finally:
            if not link.alive:
                self._lost()

    def _failure(self, failed: Failed) -> PhichatError:
        match failed.failure:
            case Failure.OVERFLOW:
                return ContextOverflow(failed.tokens, self.n_ctx)
            case Failure.TEMPLATE:
                return TemplateError(
                    f"The model's chat template refuses these messages ({failed.message})", "try another model"
                )
            case Failure.MEMORY:
                return ModelDoesNotFit(
                    f"{self._name} needs more memory than is free ({failed.message})",
                    "try a smaller --ctx-size, fewer --n-gpu-layers or a smaller model",
                )
            case Failure.LOAD | Failure.LIBRARY:
                return EngineLoadFailed(
                    f"llama.cpp cannot load {self._path} ({failed.message})",
                    "download it again, or update llama-cpp-python if the model is newer",
                )
            case Failure.DECODE | Failure.CANCELLED:
                return EngineError(f"llama.cpp could not evaluate the prompt ({failed.message})", "ask again")
            case _:
                assert_never(failed.failure)
