"""The sequences of a context: which tokens' keys and values each of them has in the KV cache."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from enum import Enum
from itertools import takewhile
from time import monotonic
from typing import Any

from phichat.engine.ipc.protocol import ErrorCode
from phichat.engine.worker.llama_lib import LlamaLog

MIN_SHARED_PREFIX = 64
"""Tokens in common with somebody else's, that are worth a change in the last bits: llama.cpp computes the attention
of so many tokens in a batch in another way than that of fewer, and so the beginning that a prompt is spared matters to
what is left of it."""
_REPACKED_ROWS = 4
"""Tokens whose products with the weights are computed together, by kernels for repacked weights, unless fewer are
left."""


class RequestFailed(Exception):
    """A request ends with a Failed reply."""

    def __init__(self, failure: ErrorCode, message: str, tokens: int = 0) -> None:
        super().__init__(message)
        self.failure = failure
        self.message = message
        self.tokens = tokens


class DecodeStatus(Enum):
    """How a batch ended."""

    DONE = "done"
    CANCELLED = "cancelled"
    CACHE_FULL = "no room"
    """The cells of the KV cache are taken by other sequences."""


class Sequence:
    """One conversation's place in the KV cache.

    cached: the tokens whose keys and values are there, by position. begun_with: tokens in the batch that the first of
    them was evaluated in, 0 when that is not known. owner: whose they are, "" when nothing of
    them is to be kept; asked_ns: since when (`time.time_ns`). is_wanted: whether whoever it was evaluated for is
    there to go on with it.
    """

    def __init__(self, pool: SequencePool, seq_id: int) -> None:
        self._pool, self.seq_id = pool, seq_id
        self.cached_tokens: list[int] = []
        self.first_batch_size = 0
        self.released_at = 0.0
        self.is_busy = False
        self.conversation_key, self.last_used_ns = "", 0
        self.may_continue: Callable[[], bool] = bool

    def truncate_to_prefix_of(self, tokens: Tokens[int]) -> None:
        """Cut the sequence down to what it has in common with tokens.

        The last token is always evaluated again: its logits are needed. A memory that cannot be
        cut (recurrent layers, a sliding window that is past) is cleared.
        """
        self.truncate(common_prefix_length(self.cached_tokens, tokens[:-1]))

    def reusable_prefix(self, tokens: Tokens[int]) -> int:
        """How many of its first tokens are kept for those: what makes no difference, is enough to be worth one, or
        is all that it has, as a conversation that goes on finds it."""
        shared = common_prefix_length(self.cached_tokens, tokens[:-1])
        if shared >= MIN_SHARED_PREFIX or shared == len(self.cached_tokens):
            return shared
        if max(len(tokens), self.first_batch_size or MIN_SHARED_PREFIX) >= MIN_SHARED_PREFIX:
            return 0
        return max(0, min(shared, len(tokens) - _REPACKED_ROWS)) // _REPACKED_ROWS * _REPACKED_ROWS

    def truncate(self, length: int) -> None:
        """Forget what is behind the first `length` tokens."""
        if length < len(self.cached_tokens) and not (
            self.can_truncate_to(length) and self._pool.remove_tokens(self.seq_id, length)
        ):
            self.clear()
        del self.cached_tokens[length:]

    def can_truncate_to(self, length: int) -> bool:
        """Whether its first `length` tokens can be had without what follows them."""
        return self._pool.can_reuse(self, length)

    def clear(self) -> None:
        """Forget everything that was evaluated."""
        self._pool.remove_tokens(self.seq_id, 0)
        self.cached_tokens.clear()
        self.first_batch_size = 0

    def decode(self, tokens: Tokens[int], *, all_logits: bool = False) -> DecodeStatus:
        """Append at most a batch of tokens, with logits for the last, or for every one; what was evaluated
        before a cancel stays. Raises RequestFailed."""
        return self._pool.decode([(self, tokens)], all_logits=all_logits)


class SequencePool:
    """All of a context's. They share its cells; `lib` and `memory` are llama.cpp's."""

    def __init__(self, lib: Any, log: LlamaLog, context: Any, count: int, *, can_truncate: bool, n_swa: int) -> None:
        """divisible: whether a sequence can be copied in part, which recurrent state cannot. window: tokens that
        the layers see which do not see all, 0 when there are none."""
        self._lib, self._log, self._context = lib, log, context
        self._memory = lib.llama_get_memory(context)
        self.can_truncate, self.n_swa = can_truncate, n_swa
        self.sequences = tuple(Sequence(self, number) for number in range(count))

    def acquire(self, tokens: Tokens[int]) -> Sequence | None:
        """An idle sequence, cut to what it has in common with tokens, and busy from now on; None when all are.

        What other conversations have in common with tokens is shared, not taken from them, while there are
        sequences that nobody used for longer.
        """
        idle = [one for one in self.sequences if not one.is_busy]
        if not idle:
            return None
        prefix_lengths = {one.seq_id: one.reusable_prefix(tokens) for one in self.sequences}
        best = max(idle, key=lambda one: (prefix_lengths[one.seq_id], one.released_at))
        donor = max(self.sequences, key=lambda one: prefix_lengths[one.seq_id])
        shared_length = prefix_lengths[donor.seq_id]
        if prefix_lengths[best.seq_id] < len(best.cached_tokens) or shared_length > prefix_lengths[best.seq_id]:
            # It would lose something: rather one that is empty or was not used for longest.
            other = min(idle, key=lambda one: (bool(one.cached_tokens), one.released_at))
            if other is not donor and self.can_reuse(donor, shared_length):
                other.clear()
                if shared_length:
                    self.copy_prefix(donor, other, shared_length)
                best, prefix_lengths[other.seq_id] = other, shared_length
        best.truncate(prefix_lengths[best.seq_id])
        best.is_busy, best.conversation_key = True, ""
        return best

    def release(self, sequence: Sequence) -> None:
        """What it holds stays until somebody needs the room."""
        sequence.is_busy = False
        sequence.released_at = monotonic()

    def can_reuse(self, source: Sequence, length: int) -> bool:
        """Whether a sequence has that many tokens, and they can be had without what follows them."""
        if len(source.cached_tokens) <= length:
            return len(source.cached_tokens) == length
        # A state that was brought back has only the last window, and cells that are out of it may be taken.
        first_position = self._lib.llama_memory_seq_pos_min(self._memory, source.seq_id)
        return self.can_truncate and first_position <= max(0, length - self.n_swa)

    def copy_prefix(self, source: Sequence, target: Sequence, length: int) -> None:
        """Let an empty sequence begin with the first `length` tokens of another, whose cells they share."""
        self._lib.llama_memory_seq_cp(self._memory, source.seq_id, target.seq_id, 0, length)
        target.cached_tokens[:], target.first_batch_size = source.cached_tokens[:length], source.first_batch_size

    def evict_idle(self) -> bool:
        """Forget the idle sequence that was not used for longest; False when none holds anything."""
        idle = [one for one in self.sequences if not one.is_busy and one.cached_tokens]
        if not idle:
            return False
        min(idle, key=lambda one: one.released_at).clear()
        return True

    def remove_tokens(self, seq_id: int, start: int) -> bool:
        """Take the tokens from `begin` on out of a sequence; False where its memory cannot do that."""
        return bool(self._lib.llama_memory_seq_rm(self._memory, seq_id, start, -1))

    def decode(self, entries: Tokens[tuple[Sequence, Tokens[int]]], *, all_logits: bool = False) -> DecodeStatus:
        """Evaluate one batch: for each sequence the tokens to append, with logits for the last of each or for all.

        Logits are kept by their place in the batch. Raises RequestFailed.
        """
        lib = self._lib
        total = sum(len(tokens) for _, tokens in entries)
        token_ids, positions = (lib.llama_token * total)(), (lib.llama_pos * total)()
        seq_ids, logits_flags = (ctypes.POINTER(lib.llama_seq_id) * total)(), (ctypes.c_int8 * total)()
        offset = 0
        for sequence, tokens in entries:
            end, position = offset + len(tokens), len(sequence.cached_tokens)
            token_ids[offset:end] = tokens
            positions[offset:end] = range(position, position + len(tokens))
            seq_id = ctypes.pointer(lib.llama_seq_id(sequence.seq_id))
            seq_ids[offset:end] = [seq_id] * len(tokens)
            logits_flags[offset if all_logits else end - 1 : end] = [1] * (len(tokens) if all_logits else 1)
            offset = end
        seq_counts = (ctypes.c_int32 * total)(*[1] * total)
        batch = lib.llama_batch(total, token_ids, None, positions, seq_counts, seq_ids, logits_flags)
        result = lib.llama_decode(self._context, batch)
        for sequence, tokens in entries:
            sequence.first_batch_size = sequence.first_batch_size if sequence.cached_tokens else total
            sequence.cached_tokens.extend(tokens)
            if result != 0:
                # Batches that were computed before the abort may or may not be kept: ask.
                del sequence.cached_tokens[lib.llama_memory_seq_pos_max(self._memory, sequence.seq_id) + 1 :]
        match result:
            case 0:
                return DecodeStatus.DONE
            case 1:
                return DecodeStatus.CACHE_FULL
            case 2:
                return DecodeStatus.CANCELLED
            case _:
                raise RequestFailed(ErrorCode.DECODE, self._log.last_error() or f"llama_decode returned {result}")


def common_prefix_length(first: Tokens[int], second: Tokens[int]) -> int:
    """How many tokens two begin with alike."""
    length = min(len(first), len(second))
    if list(first[:length]) == list(second[:length]):
        return length
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
