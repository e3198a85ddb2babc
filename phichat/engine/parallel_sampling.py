"""Several replies to one prompt."""

from __future__ import annotations

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
"""llama.cpp takes the one above for a wish to have it drawn."""


def derive_seeds(params: SamplingParams, n: int) -> tuple[int, ...]:
    """The seeds of so many samples: the one given or drawn, and those that follow it."""
    drawn = int.from_bytes(os.urandom(4), "big") % _SEED_COUNT
    first = params.seed if params.seed is not None else drawn
    return tuple((first + offset) % _SEED_COUNT for offset in range(n))


def sample_sequentially(
    generate: Callable[[Sequence[Message], SamplingParams, CancelToken], Iterator[GenerationEvent]],
    messages: Sequence[Message],
    params: SamplingParams,
    seeds: Mapping[int, int],
    cancel: CancelToken,
    total: int,
) -> Iterator[SampleEvent]:
    """Samples by a backend that gives one reply at a time. seeds: by the numbers of the samples, of `total`.

    Raises what generate raises.
    """
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
    """The end of a sample, unless it failed before it had begun."""
    if reply.finish_reason in (FinishReason.STOP, FinishReason.LENGTH) or reply.text or reply.reasoning:
        yield SampleFinished(index, reply)


class SamplesAccumulator:
    """Several replies as they grow; as `GrowingReply`, it loses nothing that was said.

    seeds: of the samples, by number.
    """

    def __init__(self, n_ctx: int, seeds: Sequence[int], load_s: float) -> None:
        self._n_ctx, self._seeds, self._load_s = n_ctx, seeds, load_s
        self._prefill_progress: protocol.PrefillProgress | None = None
        self._open_replies: dict[int, ReplyAccumulator] = {}
        self._completed = self._tokens = 0

    def feed(self, engine_reply: protocol.EngineReply) -> Iterator[SampleEvent]:
        """The events that one reply of the engine process amounts to."""
        match engine_reply:
            case protocol.PrefillProgress():
                self._prefill_progress = engine_reply
                yield PromptProgress(engine_reply.done, engine_reply.total, engine_reply.cached)
            case protocol.SampleOutput():
                accumulator = self._open_replies.get(engine_reply.index) or self._start_reply(engine_reply.index)
                list(accumulator.feed(engine_reply.output))
                if isinstance(engine_reply.output, protocol.GenerationFinished):
                    self._completed += 1
                    yield SampleFinished(engine_reply.index, self._open_replies.pop(engine_reply.index).finish())
                else:
                    self._tokens += engine_reply.output.tokens
                yield SamplingProgress(self._completed, len(self._seeds), self._tokens)
            case _:
                pass

    def _start_reply(self, index: int) -> ReplyAccumulator:
        reply = self._open_replies[index] = ReplyAccumulator(self._n_ctx, self._seeds[index], self._load_s)
        if self._prefill_progress:
            list(reply.feed(self._prefill_progress))
        return reply

    def finish_remaining(self, reason: FinishReason | None = None) -> Iterator[SampleFinished]:
        """Those whose end did not come. reason: instead of that they were cancelled."""
        for index, reply in self._open_replies.items():
            yield from finish_sample(index, reply.finish(reason))
