"""Several replies to one prompt."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from phichat.engine.backend import CancelToken, GenerationEvent, SampleEvent
from phichat.engine.ipc import protocol
from phichat.engine.reply_accumulator import ReplyAccumulator
from phichat.events import PromptProgress, ReasoningDelta, SampleFinished, SamplingProgress, TextDelta, TurnFinished
from phichat.types import FinishReason, Message, SamplingParams

_SEED_COUNT = 2**32 - 1
"""llama.cpp takes the number above as a request for a random seed (LLAMA_DEFAULT_SEED)."""


def derive_seeds(params: SamplingParams, n: int) -> tuple[int, ...]:
    """Return the seeds of n replies: the given or a random one, and those that follow it."""
    first = params.seed if params.seed is not None else int.from_bytes(os.urandom(4), "big") % _SEED_COUNT
    return tuple((first + offset) % _SEED_COUNT for offset in range(n))


def sample_sequentially(
    generate: Callable[[Sequence[Message], SamplingParams, CancelToken], Iterator[GenerationEvent]],
    messages: Sequence[Message],
    params: SamplingParams,
    seeds: Mapping[int, int],
    cancel: CancelToken,
    total: int,
) -> Iterator[SampleEvent]:
    """Generate several replies with a backend that gives one at a time.
    seeds: by the index of the reply, of `total` replies. Raises what `generate` raises."""
    delta_count = 0
    for completed, (index, seed) in enumerate(seeds.items(), total - len(seeds)):
        if cancel.is_set():
            return
        for event in generate(messages, replace(params, seed=seed), cancel):
            match event:
                case PromptProgress():
                    yield event
                case ReasoningDelta() | TextDelta():
                    delta_count += 1
                    yield SamplingProgress(completed, total, delta_count)
                case TurnFinished():
                    yield from finish_sample(index, event)
                case _:
                    assert_never(event)


def finish_sample(index: int, reply: TurnFinished) -> Iterator[SampleFinished]:
    """Yield the end of a reply, unless it failed before it began."""
    if reply.finish_reason in (FinishReason.STOP, FinishReason.LENGTH) or reply.text or reply.reasoning:
        yield SampleFinished(index, reply)


class SamplesAccumulator:
    """Several growing replies, by the index of their seed."""

    def __init__(self, n_ctx: int, seeds: Sequence[int], load_s: float) -> None:
        self._n_ctx, self._seeds, self._load_s = n_ctx, seeds, load_s
        self._prefill_progress = protocol.PrefillProgress(0, 0, 0)
        self._open_replies: dict[int, ReplyAccumulator] = {}
        self._completed = self._tokens = 0

    def feed(self, reply: protocol.EngineReply) -> Iterator[SampleEvent]:
        """Yield the events for one reply of the engine process."""
        if isinstance(reply, protocol.PrefillProgress):
            self._prefill_progress = reply
            yield PromptProgress(reply.done, reply.total, reply.cached)
        elif isinstance(reply, protocol.SampleOutput):
            accumulator = self._open_replies.get(reply.index)
            if accumulator is None:
                accumulator = ReplyAccumulator(self._n_ctx, self._seeds[reply.index], self._load_s)
                self._open_replies[reply.index] = accumulator
                list(accumulator.feed(self._prefill_progress))
            list(accumulator.feed(reply.output))
            if isinstance(reply.output, protocol.GenerationFinished):
                self._completed += 1
                yield SampleFinished(reply.index, self._open_replies.pop(reply.index).finish())
            else:
                self._tokens += reply.output.tokens
            yield SamplingProgress(self._completed, len(self._seeds), self._tokens)

    def finish_remaining(self, reason: FinishReason | None = None) -> Iterator[SampleFinished]:
        """Yield the ends of replies that the engine did not finish; reason: instead of CANCELLED."""
        for index, accumulator in self._open_replies.items():
            yield from finish_sample(index, accumulator.finish(reason))
