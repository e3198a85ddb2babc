"""Several replies to one prompt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import assert_never

from phichat.engine import protocol
from phichat.engine.backend import Cancel, GenerationEvent, SampleEvent
from phichat.engine.reply import GrowingReply
from phichat.events import PromptProgress, ReasoningDelta, SampleFinished, Sampling, TextDelta, TurnFinished
from phichat.messages import FinishReason, GenerationParams, Message

_SEEDS = 2**32 - 1
"""llama.cpp takes the one above for a wish to have it drawn."""


def seeds_of(params: GenerationParams, number: int) -> tuple[int, ...]:
    """The seeds of so many samples: the one given or drawn, and those that follow it."""
    drawn = int.from_bytes(os.urandom(4), "big") % _SEEDS
    first = params.seed if params.seed is not None else drawn
    return tuple((first + at) % _SEEDS for at in range(number))


def one_by_one(
    generate: Callable[[Sequence[Message], GenerationParams, Cancel], Iterator[GenerationEvent]],
    messages: Sequence[Message],
    params: GenerationParams,
    seeds: Mapping[int, int],
    cancel: Cancel,
    total: int,
) -> Iterator[SampleEvent]:
    """Samples by a backend that gives one reply at a time. seeds: by the numbers of the samples, of `total`.

    Raises what generate raises.
    """
    pieces = 0
    for complete, (number, seed) in enumerate(seeds.items(), total - len(seeds)):
        if cancel.is_set():
            return
        for event in generate(messages, replace(params, seed=seed), cancel):
            match event:
                case PromptProgress():
                    yield event
                case ReasoningDelta() | TextDelta():
                    pieces += 1
                    yield Sampling(complete, total, pieces)
                case TurnFinished():
                    yield from ended(number, event)
                case _:
                    assert_never(event)


def ended(number: int, reply: TurnFinished) -> Iterator[SampleFinished]:
    """The end of a sample, unless it failed before it had begun."""
    if reply.finish_reason in (FinishReason.STOP, FinishReason.LENGTH) or reply.text or reply.reasoning:
        yield SampleFinished(number, reply)


class GrowingSamples:
    """Several replies as they grow; as `GrowingReply`, it loses nothing that was said.

    seeds: of the samples, by number.
    """

    def __init__(self, n_ctx: int, seeds: Sequence[int], load_s: float) -> None:
        self._n_ctx, self._seeds, self._load_s = n_ctx, seeds, load_s
        self._evaluated: protocol.Evaluating | None = None
        self._open: dict[int, GrowingReply] = {}
        self._complete = self._tokens = 0

    def take(self, said: protocol.Reply) -> Iterator[SampleEvent]:
        """The events that one reply of the engine process amounts to."""
        match said:
            case protocol.Evaluating():
                self._evaluated = said
                yield PromptProgress(said.done, said.total, said.cached)
            case protocol.OfSample():
                reply = self._open.get(said.number) or self._begun(said.number)
                list(reply.take(said.reply))
                if isinstance(said.reply, protocol.Generated):
                    self._complete += 1
                    yield SampleFinished(said.number, self._open.pop(said.number).finished())
                else:
                    self._tokens += said.reply.tokens
                yield Sampling(self._complete, len(self._seeds), self._tokens)
            case _:
                pass

    def _begun(self, number: int) -> GrowingReply:
        reply = self._open[number] = GrowingReply(self._n_ctx, self._seeds[number], self._load_s)
        if self._evaluated:
            list(reply.take(self._evaluated))
        return reply

    def rest(self, reason: FinishReason | None = None) -> Iterator[SampleFinished]:
        """Those whose end did not come. reason: instead of that they were cancelled."""
        for number, reply in self._open.items():
            yield from ended(number, reply.finished(reason))
