"""Interface between a conversation and the source of its replies."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from phichat import events
from phichat.cancel import CancelToken
from phichat.types import Message, SamplingParams

__all__ = ["Backend", "CancelToken", "GenerationEvent", "LoadEvent", "SampleEvent"]

LoadEvent = events.ModelVerifying | events.ModelLoading | events.ModelReady
GenerationEvent = events.PromptProgress | events.ReasoningDelta | events.TextDelta | events.TurnFinished
SampleEvent = events.PromptProgress | events.SamplingProgress | events.SampleFinished


class Backend(Protocol):
    """One model. All methods raise EngineError or ModelFileError kinds; the next call after an error starts afresh."""

    def load(self, cancel: CancelToken) -> Iterator[LoadEvent]:
        """Load the model; yields nothing when it is loaded already.
        A set `cancel` ends it early; the model is then not loaded and no ModelReady is yielded."""

    def count_tokens(self, messages: Sequence[Message], cancel: CancelToken) -> int:
        """Return the number of tokens of the prompt made of these messages, 0 when cancelled."""

    @property
    def n_ctx(self) -> int:
        """Context of the loaded model, in tokens."""

    def generate(
        self, messages: Sequence[Message], params: SamplingParams, cancel: CancelToken, conversation_id: str = ""
    ) -> Iterator[GenerationEvent]:
        """Generate the reply to messages that fit the context.

        Ends with exactly one TurnFinished, also before an error is raised; a set `cancel` ends it within half a
        second, with the text so far. conversation_id: "" when its KV cache is not to be saved.
        """

    def generate_n(
        self, messages: Sequence[Message], params: SamplingParams, n: int, cancel: CancelToken
    ) -> Iterator[SampleEvent]:
        """Generate n replies to messages that fit the context, with the seeds params.seed (or a random one) and the
        n - 1 that follow it. The same seeds give the same replies again.

        Each reply that began gets one SampleFinished; otherwise as for `generate`.
        """

    def unload(self) -> None:
        """Free the model's memory, unless other clients use it; the backend can load again."""

    def close(self) -> None:
        """Disconnect from the model, which a daemon keeps loaded for a while; the backend can load again."""
