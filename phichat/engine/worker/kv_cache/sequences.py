"""Sequences of a llama.cpp context: which tokens each of them has in the KV cache."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import takewhile
from time import monotonic
from typing import Any

from phichat.engine.ipc.protocol import ErrorCode
from phichat.engine.worker.errors import RequestFailed
from phichat.engine.worker.llama_lib import LlamaLog

MIN_SHARED_PREFIX = 64
"""Tokens shared with another conversation that are worth a change in the last bits: llama.cpp computes the attention of
a batch of this many tokens in another way than that of fewer, so a skipped prefix changes how the rest is rounded."""
_REPACKED_ROWS = 4  # tokens that kernels for repacked weights multiply at once, unless fewer are left


class DecodeStatus(Enum):
    """Outcome of a batch, by the return value of llama_decode. CACHE_FULL: other sequences hold the KV cells."""

    DONE = 0
    CACHE_FULL = 1
    CANCELLED = 2


class KvSequence:
    """One sequence of the KV cache, which holds the tokens of at most one conversation.

    cached_tokens: those whose keys and values are in the cache, by position. first_batch_size: tokens in the batch
    that the first of them was evaluated in, 0 if unknown. conversation_key: "" if they are not to be saved;
    last_used_ns: when it got its conversation (`time.time_ns`). may_continue: True while its client is connected.
    """

    def __init__(self, pool: SequencePool, seq_id: int) -> None:
        self._pool, self.seq_id, self._lib, self._memory = pool, seq_id, pool.lib, pool.memory
        self.cached_tokens: list[int] = []
        self.first_batch_size = 0
        self.released_at = 0.0
        self.is_busy = False
        self.conversation_key, self.last_used_ns = "", 0
        self.may_continue: Callable[[], bool] = bool

    def reusable_prefix(self, tokens: Sequence[int]) -> int:
        """Return how many of its tokens to reuse for a prompt.

        The shared prefix if it is all that the sequence holds (a conversation that goes on) or long enough to be
        worth another rounding; else as much of it as leaves the rounding of the rest the same.
        """
        shared = common_prefix_length(self.cached_tokens, tokens[:-1])
        if shared >= MIN_SHARED_PREFIX or shared == len(self.cached_tokens):
            return shared
        if max(len(tokens), self.first_batch_size or MIN_SHARED_PREFIX) >= MIN_SHARED_PREFIX:
            return 0
        return max(0, min(shared, len(tokens) - _REPACKED_ROWS)) // _REPACKED_ROWS * _REPACKED_ROWS

    def truncate(self, length: int) -> None:
        """Remove the tokens after the first `length`.

        A memory that cannot do that (recurrent layers, a sliding window that has passed) is cleared.
        """
        if length < len(self.cached_tokens) and not (self.can_truncate_to(length) and self._remove_from(length)):
            self.clear()
        del self.cached_tokens[length:]

    def can_truncate_to(self, length: int) -> bool:
        """Return True if the first `length` tokens are in the cache, and can be used without those after them."""
        if len(self.cached_tokens) <= length:
            return len(self.cached_tokens) == length
        # A restored sequence has only the last window, and cells before it may have been reused.
        first_position: int = self._lib.llama_memory_seq_pos_min(self._memory, self.seq_id)
        return self._pool.can_truncate and first_position <= max(0, length - self._pool.n_swa)

    def _remove_from(self, start: int) -> bool:
        return bool(self._lib.llama_memory_seq_rm(self._memory, self.seq_id, start, -1))

    def clear(self) -> None:
        """Remove all tokens."""
        self._remove_from(0)
        self.cached_tokens.clear()
        self.first_batch_size = 0

    def decode(self, tokens: Sequence[int], *, all_logits: bool = False) -> DecodeStatus:
        """Append at most a batch of tokens, with logits for the last or for all. Raises RequestFailed.

        Tokens that were evaluated before a cancel remain.
        """
        return self._pool.decode([(self, tokens)], all_logits=all_logits)


class SequencePool:
    """All sequences of a context, which share its cells.

    can_truncate: False for recurrent state, of which no prefix can be reused. n_swa: tokens that a sliding-window
    layer sees, 0 without such layers.
    """

    def __init__(self, lib: Any, log: LlamaLog, context: Any, count: int, *, can_truncate: bool, n_swa: int) -> None:
        self.lib, self._log, self._context, self.memory = lib, log, context, lib.llama_get_memory(context)
        self.can_truncate, self.n_swa = can_truncate, n_swa
        self.sequences = tuple(KvSequence(self, number) for number in range(count))

    def acquire(self, tokens: Sequence[int]) -> KvSequence | None:
        """Return an idle sequence, cut to the prefix to reuse and marked busy; None when all are busy.

        A prefix in another conversation's sequence is shared, not taken, while a less recently used one is idle.
        """
        idle = [one for one in self.sequences if not one.is_busy]
        if not idle:
            return None
        prefix_lengths = {one: one.reusable_prefix(tokens) for one in self.sequences}
        best = max(idle, key=lambda one: (prefix_lengths[one], one.released_at))
        donor = max(self.sequences, key=lambda one: prefix_lengths[one])
        shared_length = prefix_lengths[donor]
        if prefix_lengths[best] < len(best.cached_tokens) or shared_length > prefix_lengths[best]:
            # The best one would lose tokens: prefer an empty or the least recently used one.
            other = min(idle, key=lambda one: (bool(one.cached_tokens), one.released_at))
            if other is not donor and donor.can_truncate_to(shared_length):
                other.clear()
                if shared_length:
                    self.copy_prefix(donor, other, shared_length)
                best, prefix_lengths[other] = other, shared_length
        best.truncate(prefix_lengths[best])
        best.is_busy, best.conversation_key = True, ""
        return best

    def release(self, sequence: KvSequence) -> None:
        """Mark a sequence idle; its tokens stay until another request needs the cells."""
        sequence.is_busy = False
        sequence.released_at = monotonic()

    def copy_prefix(self, source: KvSequence, target: KvSequence, length: int) -> None:
        """Let an empty sequence start with the first `length` tokens of another one, sharing its cells."""
        self.lib.llama_memory_seq_cp(self.memory, source.seq_id, target.seq_id, 0, length)
        target.cached_tokens[:], target.first_batch_size = source.cached_tokens[:length], source.first_batch_size

    def evict_idle(self) -> bool:
        """Clear the least recently used idle sequence; False when all idle ones are empty."""
        idle = [one for one in self.sequences if not one.is_busy and one.cached_tokens]
        if idle:
            min(idle, key=lambda one: one.released_at).clear()
        return bool(idle)

    def decode(self, entries: Sequence[tuple[KvSequence, Sequence[int]]], *, all_logits: bool = False) -> DecodeStatus:
        """Evaluate one batch: for each sequence the tokens to append, with logits for the last of each or for all.

        Logits are addressed by their index in the batch. Raises RequestFailed.
        """
        lib, rows = self.lib, []
        for sequence, tokens in entries:
            start, seq_id = len(sequence.cached_tokens), ctypes.pointer(lib.llama_seq_id(sequence.seq_id))
            last = start + len(tokens) - 1
            rows += [(token, at, 1, seq_id, all_logits or at == last) for at, token in enumerate(tokens, start)]
        types = (lib.llama_token, lib.llama_pos, ctypes.c_int32, ctypes.POINTER(lib.llama_seq_id), ctypes.c_int8)
        columns = [(kind * len(rows))(*values) for kind, values in zip(types, zip(*rows, strict=True), strict=True)]
        token_ids, *others = columns
        result = lib.llama_decode(self._context, lib.llama_batch(len(rows), token_ids, None, *others))
        for sequence, tokens in entries:
            sequence.first_batch_size = sequence.first_batch_size if sequence.cached_tokens else len(rows)
            sequence.cached_tokens.extend(tokens)
            if result != 0:
                # Batches that were computed before the abort may or may not be in the cache.
                del sequence.cached_tokens[lib.llama_memory_seq_pos_max(self.memory, sequence.seq_id) + 1 :]
        if 0 <= result <= 2:
            return DecodeStatus(result)
        raise RequestFailed(ErrorCode.DECODE, self._log.last_error() or f"llama_decode returned {result}")


def common_prefix_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the number of tokens that two lists start with in common."""
    length = min(len(first), len(second))
    if list(first[:length]) == list(second[:length]):
        return length
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))
