"""What is said to and by an engine process that measures: how fast it is, and what it does best with.

Apart from the rest of the protocol, which every question needs at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from phichat.engine.protocol import Measure, Measurement


@dataclass(frozen=True, slots=True)
class Bench(Measure):
    """Time a prompt of so many tokens, then so many generated ones, each from an empty context."""

    prompt_tokens: int
    generated_tokens: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Tune(Measure):
    """Time reading and writing with each of these numbers of threads in turn, about so many seconds each.

    threads: the first one is what the others are compared with.
    """

    threads: tuple[int, ...]
    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Weigh(Measure):
    """Time batches of these sizes in turn, the first one a single token, with logits for each of their tokens, and
    compare those with what single tokens give."""

    threads: int
    prompt_threads: int
    sizes: tuple[int, ...]
    rounds: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Benched(Measurement):
    """Tokens per second of each repeat; bytes per second that memory could be read with."""

    prompt: tuple[float, ...]
    generation: tuple[float, ...]
    memory_bandwidth: float


@dataclass(frozen=True, slots=True)
class Trial:
    """Tokens per second with so many threads, one of each round."""

    threads: int
    prompt: tuple[float, ...]
    generation: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Tuned(Measurement):
    """trials: in the order of the request."""

    trials: tuple[Trial, ...]


@dataclass(frozen=True, slots=True)
class Weighed(Measurement):
    """Seconds that a batch of each size took, one of each round; whether its logits are exactly those of single
    tokens."""

    seconds: tuple[tuple[float, ...], ...]
    exact: tuple[bool, ...]


KINDS = {kind.__name__: kind for kind in (Bench, Tune, Weigh, Benched, Trial, Tuned, Weighed)}
