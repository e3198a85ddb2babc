"""Reply of an engine process as it grows."""

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

from phichat.engine.backend import GenerationEvent
from phichat.engine.ipc import protocol
from phichat.events import PromptProgress, ReasoningDelta, TextDelta, TurnFinished
from phichat.types import FinishReason, Timings, Usage


class ReplyAccumulator:
    """Text of a growing reply in this process, so that none of it is lost with an engine that dies.
    n_ctx: context in tokens. seed: used for sampling. load_s: seconds that loading took for this turn."""

    def __init__(self, n_ctx: int, seed: int, load_s: float) -> None:
        self._n_ctx, self._seed, self._load_s = n_ctx, seed, load_s
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._usage, self._timings = Usage(), Timings()
        # A cancelled request ends without a GenerationFinished.
        self._finish_reason = FinishReason.CANCELLED
        self._requested_at, self._first_token_at = monotonic(), 0.0

    def feed(self, reply: protocol.EngineReply) -> Iterator[GenerationEvent]:
        """Yield the events for one reply of the engine process."""
        match reply:
            case protocol.PrefillProgress():
                self._usage = Usage(reply.total, reply.cached, 0)
                yield PromptProgress(reply.done, reply.total, reply.cached)
            case protocol.OutputDelta():
                # For a reply whose engine dies before it sends its own figures.
                now = monotonic()
                self._first_token_at = self._first_token_at or now
                wait_s = self._first_token_at - self._requested_at
                self._usage = replace(self._usage, completion_tokens=self._usage.completion_tokens + reply.tokens)
                self._timings = Timings(wait_s, first_token_s=wait_s, generation_s=now - self._first_token_at)
                if reply.reasoning:
                    self._reasoning.append(reply.reasoning)
                    yield ReasoningDelta(reply.reasoning)
                if reply.text:
                    self._text.append(reply.text)
                    yield TextDelta(reply.text)
            case protocol.GenerationFinished():
                self._usage, self._timings, self._finish_reason = reply.usage, reply.timings, reply.finish_reason

    def finish(self, reason: FinishReason | None = None) -> TurnFinished:
        """Return the end of the reply; reason: instead of the engine's."""
        return TurnFinished(
            text="".join(self._text),
            reasoning="".join(self._reasoning),
            finish_reason=reason or self._finish_reason,
            usage=self._usage,
            timings=replace(self._timings, load_s=self._load_s),
            n_ctx=self._n_ctx,
            seed=self._seed,
        )
