"""The sequences of a context: which tokens' keys and values each of them has in the KV cache."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from enum import Enum
from itertools import takewhile
from time import monotonic
from typing import Any

from phichat.engine.protocol import Failure
from phichat.engine.worker.library import Log

FEWEST_SHARED = 64
"""Tokens in common with somebody else's, that are worth a change in the last bits: llama.cpp computes the attention
of so many tokens in a batch in another way than that of fewer, and so the beginning that a prompt is spared matters to
what is left of it."""
_ROWS = 4
"""Tokens whose products with the weights are computed together, by kernels for repacked weights, unless fewer are
left."""


class RequestFailed(Exception):
    """A request ends with a Failed reply."""

    def __init__(self, failure: Failure, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.tokens = tokens


class Decoded(Enum):
    """How a batch ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    NO_ROOM = "no room"
    """The cells of the KV cache are taken by other sequences."""


class Sequence:
    """One conversation's place in the KV cache.

    cached: the tokens whose keys and values are there, by position. begun_with: tokens in the batch that the first of
    them was evaluated in, 0 when that is not known. owner: whose they are, "" when nothing of
    them is to be kept; asked_ns: since when (`time.time_ns`). is_wanted: whether whoever it was evaluated for is
    there to go on with it.
    """

    def __init__(self, sequences: Sequences, number: int) -> None:
        self._all, self.number = sequences, number
        self.cached: list[int] = []
        self.begun_with = 0
        self.used_at = 0.0
        self.busy = False
        self.owner, self.asked_ns = "", 0
        self.is_wanted: Callable[[], bool] = bool

    def keep_prefix(self, tokens: Tokens[int]) -> None:
        """Cut the sequence down to what it has in common with tokens.

        The last token is always evaluated again: its logits are needed. A memory that cannot be
        cut (recurrent layers, a sliding window that is past) is cleared.
        """
        self.cut(common(self.cached, tokens[:-1]))

    def of_use(self, tokens: Tokens[int]) -> int:
        """How many of its first tokens are kept for those: what makes no difference, is enough to be worth one, or
        is all that it has, as a conversation that goes on finds it."""
        same = common(self.cached, tokens[:-1])
        if same >= FEWEST_SHARED or same == len(self.cached):
            return same
        if max(len(tokens), self.begun_with or FEWEST_SHARED) >= FEWEST_SHARED:
            return 0
        return max(0, min(same, len(tokens) - _ROWS)) // _ROWS * _ROWS

    def cut(self, length: int) -> None:
        """Forget what is behind the first `length` tokens."""
        if length < len(self.cached) and not (self.can_be_cut(length) and self._all.remove(self.number, length)):
            self.clear()
        del self.cached[length:]

    def can_be_cut(self, length: int) -> bool:
        """Whether its first `length` tokens can be had without what follows them."""
        return self._all.has(self, length)

    def clear(self) -> None:
        """Forget everything that was evaluated."""
        self._all.remove(self.number, 0)
        self.cached.clear()
        self.begun_with = 0

    def decode(self, tokens: Tokens[int], *, every: bool = False) -> Decoded:
        """Append at most a batch of tokens, with logits for the last, or for every one; what was evaluated
        before a cancel stays. Raises RequestFailed."""
        return self._all.decode([(self, tokens)], every=every)


class Sequences:
    """All of a context's. They share its cells; `lib` and `memory` are llama.cpp's."""

    def __init__(self, lib: Any, log: Log, context: Any, count: int, *, divisible: bool, window: int) -> None:
        """divisible: whether a sequence can be copied in part, which recurrent state cannot. window: tokens that
        the layers see which do not see all, 0 when there are none."""
        self._lib, self._log, self._context = lib, log, context
        self._memory = lib.llama_get_memory(context)
        self.divisible, self.window = divisible, window
        self.all = tuple(Sequence(self, number) for number in range(count))

    def take(self, tokens: Tokens[int]) -> Sequence | None:
        """An idle sequence, cut to what it has in common with tokens, and busy from now on; None when all are.

        What other conversations have in common with tokens is shared, not taken from them, while there are
        sequences that nobody used for longer.
        """
        idle = [one for one in self.all if not one.busy]
        if not idle:
            return None
        begins = {one.number: one.of_use(tokens) for one in self.all}
        best = max(idle, key=lambda one: (begins[one.number], one.used_at))
        longest = max(self.all, key=lambda one: begins[one.number])
        shared = begins[longest.number]
        if begins[best.number] < len(best.cached) or shared > begins[best.number]:
            # It would lose something: rather one that is empty or was not used for longest.
            other = min(idle, key=lambda one: (bool(one.cached), one.used_at))
            if other is not longest and self.has(longest, shared):
                other.clear()
                if shared:
                    self.copy(longest, other, shared)
                best, begins[other.number] = other, shared
        best.cut(begins[best.number])
        best.busy, best.owner = True, ""
        return best

    def release(self, sequence: Sequence) -> None:
        """What it holds stays until somebody needs the room."""
        sequence.busy = False
        sequence.used_at = monotonic()

    def has(self, source: Sequence, length: int) -> bool:
        """Whether a sequence has that many tokens, and they can be had without what follows them."""
        if len(source.cached) <= length:
            return len(source.cached) == length
        # A state that was brought back has only the last window, and cells that are out of it may be taken.
        begin = self._lib.llama_memory_seq_pos_min(self._memory, source.number)
        return self.divisible and begin <= max(0, length - self.window)

    def copy(self, source: Sequence, target: Sequence, length: int) -> None:
        """Let an empty sequence begin with the first `length` tokens of another, whose cells they share."""
        self._lib.llama_memory_seq_cp(self._memory, source.number, target.number, 0, length)
        target.cached[:], target.begun_with = source.cached[:length], source.begun_with

    def give_room(self) -> bool:
        """Forget the idle sequence that was not used for longest; False when none holds anything."""
        idle = [one for one in self.all if not one.busy and one.cached]
        if not idle:
            return False
        min(idle, key=lambda one: one.used_at).clear()
        return True

    def remove(self, number: int, begin: int) -> bool:
        """Take the tokens from `begin` on out of a sequence; False where its memory cannot do that."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, number, begin, -1))

    def decode(self, parts: Tokens[tuple[Sequence, Tokens[int]]], *, every: bool = False) -> Decoded:
        """Evaluate one batch: for each sequence the tokens to append, with logits for the last of each or for all.

        Logits are kept by their place in the batch. Raises RequestFailed.
        """
        lib = self._lib
        total = sum(len(tokens) for _, tokens in parts)
        token, place = (lib.llama_token * total)(), (lib.llama_pos * total)()
        of, wanted = (ctypes.POINTER(lib.llama_seq_id) * total)(), (ctypes.c_int8 * total)()
        at = 0
        for sequence, tokens in parts:
            end, begin = at + len(tokens), len(sequence.cached)
            token[at:end] = tokens
            place[at:end] = range(begin, begin + len(tokens))
            number = ctypes.pointer(lib.llama_seq_id(sequence.number))
            of[at:end] = [number] * len(tokens)
            wanted[at if every else end - 1 : end] = [1] * (len(tokens) if every else 1)
            at = end
        counts = (ctypes.c_int32 * total)(*[1] * total)
        batch = lib.llama_batch(total, token, None, place, counts, of, wanted)
        result = lib.llama_decode(self._context, batch)
        for sequence, tokens in parts:
            sequence.begun_with = sequence.begun_with if sequence.cached else total
            sequence.cached.extend(tokens)
            if result != 0:
                # Batches that were computed before the abort may or may not be kept: ask.
                del sequence.cached[lib.llama_memory_seq_pos_max(self._memory, sequence.number) + 1 :]
        match result:
            case 0:
                return Decoded.DONE
            case 1:
                return Decoded.NO_ROOM
            case 2:
                return Decoded.CANCELLED
            case _:
                raise RequestFailed(Failure.DECODE, self._log.explanation() or f"llama_decode returned {result}")


def common(one: Tokens[int], other: Tokens[int]) -> int:
    """How many tokens two begin with alike."""
    length = min(len(one), len(other))
    if list(one[:length]) == list(other[:length]):
        return length
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
