"""The seam between a conversation and whatever generates its replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from phichat.cancel import CancelToken
from phichat.events import (
    ModelLoading,
    ModelReady,
    ModelVerifying,
    PromptProgress,
    ReasoningDelta,
    SampleFinished,
    SamplingProgress,
    TextDelta,
    TurnFinished,
)
from phichat.types import Message, SamplingParams

__all__ = ["Backend", "CancelToken", "GenerationEvent", "LoadEvent", "SampleEvent"]

LoadEvent = ModelVerifying | ModelLoading | ModelReady
GenerationEvent = PromptProgress | ReasoningDelta | TextDelta | TurnFinished
SampleEvent = PromptProgress | SamplingProgress | SampleFinished


class Backend(Protocol):
    """One model. All methods raise EngineError or ModelFileError kinds; after one of them the next
    call starts afresh."""

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """Bring the model into memory; yields nothing when it is there already.

        A set `cancel` ends it early; the model is then not loaded and no ModelReady is yielded.
        """
        ...

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        """Tokens of the prompt that `generate` would evaluate for these messages; 0 when cancelled."""
        ...

    @property
    def n_ctx(self) -> int:
        """The context of the loaded model, in tokens."""
        ...

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        """Reply to messages that fit the context. Ends with exactly one TurnFinished, also before an
        error is raised; a set `cancel` ends it within half a second, with what was said.

        owner: the conversation that this belongs to, "" where nothing of it is to be kept.
        """
        ...

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """So many replies to messages that fit the context, each with a seed of its own: params.seed, or one that
        is drawn, and those that follow it. The same seeds give the same replies again.

        Each that has begun gets one SampleFinished, also before an error is raised; a set `cancel` ends them within
        half a second, with what was said.
        """
        ...

    def unload(self) -> None:
        """Free the model's memory, unless others use it; the backend can load again."""
        ...

    def close(self) -> None:
        """Let go of the model; an engine that stays keeps it for a while. The backend can load again."""
        ...
